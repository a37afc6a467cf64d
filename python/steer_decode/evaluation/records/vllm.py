"""Records from what a vLLM server has logged.

vLLM's OpenAI-compatible server gives the likeliest tokens of each place it writes (``logprobs``)
and of each place of a prompt (``prompt_logprobs``). So one response of the model that wrote a text,
and one of the other model that was given prompt and text as token ids, make a record. What vLLM
does not give is absent: logits, log-sum-exp, entropy, and log-probabilities behind temperature and
cuts.

Two files of JSON lines, a response a line, in the same order. The writer's are of
``/v1/completions`` with ``logprobs=8, return_tokens_as_token_ids=true``, or of
``/v1/chat/completions`` with ``logprobs=true, top_logprobs=8`` and the same; the reader's of
``/v1/completions`` with ``prompt=[ids], prompt_logprobs=8, max_tokens=1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...core.boundary import StepBoundary
from ...core.sampling import Sampling
from ...core.transcript import Writer, other
from ...errors import SteerError
from ...models.vocabulary import vocabulary_digest
from ...util.documents import Fault
from ...util.text import short
from .made import check_texts
from .record import TOP, AnswerRecord, RecordHeader, Records, TokenView
from .responses import Place, WrittenText, read_prompts_of, read_written


@dataclass(frozen=True)
class Logged:
    """Two logs of answers, and what they do not say.

    Attributes:
        wrote: responses of the model that wrote the texts.
        read: responses of the other model to prompt and text.
        writer: which of the pair wrote.
        sampling: how tokens were drawn.
        names: of the models.
    """

    wrote: Path
    read: Path
    writer: Writer
    sampling: Sampling
    names: Mapping[Writer, str]


def import_vllm(logged: Logged, tokenizer: PreTrainedTokenizerBase) -> Records:
    """Make records of two logs.

    Args:
        logged: the files, and what they do not say.
        tokenizer: of both models; steps are told by it, and texts are checked against their ids.

    Raises:
        SteerError: a line that is no such response, logits in place of log-probabilities, two lines
            that are not of one text, or texts of another tokenizer.
    """
    wrote, read = read_written(logged.wrote), read_prompts_of(logged.read)
    if len(wrote) != len(read) or not wrote:
        raise SteerError(
            f"{str(logged.wrote)!r} has {len(wrote)} responses and {str(logged.read)!r} "
            f"{len(read)}: give one of either model for each answer, in one order"
        )
    theirs = []
    for number, (text_, places) in enumerate(zip(wrote, read, strict=True), 1):
        try:
            theirs.append(_of_text(places, text_))
        except Fault as fault:
            raise SteerError(
                f"response {number} of {str(logged.read)!r} is not of the text of response "
                f"{number} of {str(logged.wrote)!r} ({fault}): send prompt and answer as token "
                "ids, in the same order"
            ) from fault
    every = [p for t in wrote for p in t.places] + [p for places in theirs for p in places]
    top = min(TOP, min(map(len, every)))
    size = len(tokenizer)
    header = RecordHeader(
        source="vllm",
        pair=None,
        vocabulary=vocabulary_digest(tokenizer),
        vocab_size=size,
        top=top,
        sampling=logged.sampling,
        names=dict(logged.names),
    )
    beyond = max(i for place in every for i in place)
    if beyond >= size:
        raise SteerError(
            f"token {beyond} in the responses is beyond the tokenizer's {size} tokens: is it that "
            "of the models that the server ran?"
        )
    boundary = StepBoundary(tokenizer, size)
    answers = [
        _record(logged.writer, number, text_, places, top, boundary)
        for number, (text_, places) in enumerate(zip(wrote, theirs, strict=True))
    ]
    records = Records(header, _unlike(answers, logged.wrote))
    check_texts(records, tokenizer, str(logged.wrote))
    return records


def _record(
    writer: Writer,
    number: int,
    of: WrittenText,
    others: list[Place],
    top: int,
    boundary: StepBoundary,
) -> AnswerRecord:
    views = {writer: _view(of.ids, of.places, top), other(writer): _view(of.ids, others, top)}
    about = {"domain": "vllm", "problem": str(number), "seed": 0, "correct": None, **of.about}
    steps, closed = _steps(of.ids, boundary)
    # Without a word about it, the text is of the model alone.
    about = {"router": writer, "spec": about.get("router", writer), **about}
    return AnswerRecord(
        **about,
        stop_reason=of.stop_reason,
        prompt_tokens=of.prompt_tokens,
        text=of.text,
        ids=np.array(of.ids, dtype=np.int64),
        writers=writer[0].upper() * len(of.ids),
        steps=steps,
        closed=closed or of.stop_reason == "eos",
        views=views,
    )


def _steps(ids: Sequence[int], boundary: StepBoundary) -> tuple[list[int], bool]:
    """Tokens of each step, and whether the last one closed."""
    lengths: list[int] = []
    scan, length = boundary.scan(), 0
    for token in ids:
        length += 1
        if scan.push(token):
            lengths.append(length)
            scan, length = boundary.scan(), 0
    return ([*lengths, length], False) if length else (lengths, True)


def _view(ids: Sequence[int], places: Sequence[Place], top: int) -> TokenView:
    ranked = [sorted(place.items(), key=lambda item: (-item[1], item[0]))[:top] for place in places]
    return TokenView(
        logprob=np.array([place[i] for i, place in zip(ids, places, strict=True)]),
        top_ids=np.array([[i for i, _ in row] for row in ranked], dtype=np.int64),
        top_logprobs=np.array([[x for _, x in row] for row in ranked]),
    )


def _unlike(answers: Sequence[AnswerRecord], path: Path) -> list[AnswerRecord]:
    seen: dict[Any, int] = {}
    for number, answer in enumerate(answers, 1):
        first = seen.setdefault(answer.key, number)
        if first != number:
            raise SteerError(
                f"response {number} of {str(path)!r} is a second one of "
                f"{short(':'.join(map(str, answer.key)))}, after response {first}: give each "
                'answer a "problem" or a "seed" of its own'
            )
    return list(answers)


def _of_text(places: list[Place], of: WrittenText) -> list[Place]:
    """The places of the answer among those of prompt and answer; Fault where they differ."""
    total = of.prompt_tokens + len(of.ids)
    if len(places) != total:
        raise Fault(f"it has {len(places)} places, prompt and answer have {total}")
    mine = places[of.prompt_tokens :]
    for at, (token, place) in enumerate(zip(of.ids, mine, strict=True)):
        if token not in place:
            raise Fault(f"token {at} of the answer, {token}, is not among the tokens of its place")
    return mine
