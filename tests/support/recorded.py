"""Records of a tiny pair, and of made-up texts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steer_decode import AlwaysLarge, AlwaysSmall, Pair, Policy
from steer_decode.core.sampling import Sampling
from steer_decode.evaluation.evaluate import Evaluation
from steer_decode.evaluation.records.file import write_records
from steer_decode.evaluation.records.made import header_for
from steer_decode.evaluation.records.record import (
    AnswerRecord,
    RecordHeader,
    Records,
    TokenView,
)
from steer_decode.evaluation.rows import ResultRow
from steer_decode.evaluation.tasks import Task
from support.tiny import make_model, make_tokenizer, prompt_text

ALONE: Mapping[str, Policy] = {"small": AlwaysSmall(), "large": AlwaysLarge()}
NAMES = {"small": "tiny small", "large": "tiny large"}


def shaken_pair() -> Pair:
    """The large model is the small one, a little shaken: drafts are accepted, and refused."""
    small = make_model("llama", 0)
    with torch.no_grad():  # most answers are to end by themselves
        small.get_output_embeddings().weight[1] *= 3
    large = copy.deepcopy(small)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in large.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight += 0.08 * weight.std() * noise
    return Pair(small, large, make_tokenizer())


def evaluation(
    pair: Pair, routers: Mapping[str, Policy] = ALONE, n: int = 4, **more: Any
) -> Evaluation:
    """Some questions; an answer is right if its text has an even number of letters."""

    def right(text: str) -> bool:
        return len(text) % 2 == 0

    tasks = [Task("ab"[i % 2], str(i), prompt_text(i, 5 + i), "", right) for i in range(n)]
    options = {"max_new_tokens": 24, **more.pop("options", {})}
    return Evaluation(pair, routers, tasks, options, record=True, **more)


def run(made: Evaluation) -> list[ResultRow]:
    return [row for group in made.groups() for row in made.answer(group)]


def recorded(pair: Pair, routers: Mapping[str, Policy] = ALONE, n: int = 4, **more: Any) -> Records:
    """Records of :func:`evaluation`."""
    made = evaluation(pair, routers, n, **more)
    records = [row.record for row in run(made)]
    return Records(header_for(pair, made.options, NAMES), [r for r in records if r is not None])


def saved(path: Path, records: Records) -> Path:
    write_records(path, records)
    return path


def header(temperature: float = 0.0, **more: Any) -> RecordHeader:
    values = {"pair": "0123456789abcdef", "vocabulary": "v" * 16, "vocab_size": 10, "top": 2}
    sampling = Sampling(temperature)
    return RecordHeader("steer eval", **{**values, "sampling": sampling, **more})  # type: ignore[arg-type]


def view(logprob: Sequence[float], top_ids: Sequence[Sequence[int]], **more: Any) -> TokenView:
    """A view of two likeliest tokens, the first at half of the probability."""
    n = len(logprob)
    top = np.log(np.tile([0.5, 0.25], (n, 1)))
    return TokenView(np.array(logprob), np.array(top_ids).reshape(n, 2), top, **more)


def answer(small: TokenView, large: TokenView, ids: Sequence[int], **more: Any) -> AnswerRecord:
    values: dict[str, Any] = {
        "router": "large",
        "spec": "large",
        "domain": "math",
        "problem": "0",
        "seed": 0,
        "correct": True,
        "stop_reason": "eos",
        "prompt_tokens": 3,
        "text": "w1 w2",
        "writers": "L" * len(ids),
        "steps": [len(ids)],
        "closed": True,
    }
    views = {"small": small, "large": large}
    return AnswerRecord(**{**values, "ids": np.array(ids), "views": views, **more})
