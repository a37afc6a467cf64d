"""Rows out of jobs: what routed decoding costs, as ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from ...core.sampling import Sampling
from ...core.transcript import Transcript
from ...decode.router import Router
from ...decode.stream import RoutedStream
from ...engines.hf.cache_support import cache_argument
from ...engines.hf.cpu import patched
from ...engines.hf.lane import Lane
from ...models.pair import Pair
from ...policies import AlwaysSmall
from ..kernels.measure import threads_set_to
from . import answers as decode_answers
from . import memory as decode_memory
from .models import load
from .plan import DecodePlan, DecodeRow, Job
from .turns import (
    Context,
    bare,
    clock,
    forward,
    generate,
    in_turns,
    ours,
    run_generate,
    timed,
    total,
)


def measure(job: Job, plan: DecodePlan) -> list[DecodeRow]:
    """The rows of one job that ``plan`` asks for."""
    with threads_set_to(job.threads):
        rows = _GROUPS[job.group](job, plan)
    return [row for row in rows if row.measure in plan.only]


@lru_cache(maxsize=1)  # the jobs of a model follow one another
def _pair(name: str) -> Pair:
    return load(name)


def _decode(job: Job, plan: DecodePlan) -> list[DecodeRow]:
    now, tokens = clock(job.threads), plan.tokens_of(job)
    context = Context(_pair(job.model), job.context, tokens)
    turns = [make(context, tokens, now) for make in (ours, bare, generate)]
    least, spread = in_turns(turns, plan.turns, plan.seconds)
    return [
        DecodeRow.of("loop", job, total(least, "loop") / total(least, "bare"), spread),
        DecodeRow.of("generate", job, total(least, "generate") / total(least, "token"), spread),
    ]


def _whole(job: Job, plan: DecodePlan) -> list[DecodeRow]:
    now, pair = clock(job.threads), _pair(job.model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, pair.vocab_size, (job.context,), generator=generator).tolist()
    router, tokens = Router(pair, AlwaysSmall()), plan.tokens_of(job)

    def answer() -> None:
        RoutedStream(router.routing, Transcript(ids), tokens, Sampling(), 0).finish()

    def theirs() -> None:
        run_generate(pair.small, torch.tensor([ids]), tokens)

    # A long prompt takes a minute on a small machine: as few turns as show a spread.
    turns = [timed("ours", answer, now), timed("generate", theirs, now)]
    least, spread = in_turns(turns, min(3, plan.turns), plan.seconds, warm=False)
    return [DecodeRow.of("generate-whole", job, least["generate"] / least["ours"], spread)]


def _hand_over(job: Job, plan: DecodePlan) -> list[DecodeRow]:
    now, pair, n = clock(job.threads), _pair(job.model), plan.hand_over_tokens
    context = Context(pair, job.context, n, "large")
    argument, model = cache_argument(context.model), patched(context.model)
    written = [i % pair.vocab_size for i in range(n)]
    both = Transcript(context.ids + written)

    def hand_over() -> dict[str, float]:
        context.start_again()
        context.lane.catch_up()  # the text is read to its end
        for token in written:
            context.transcript.append(token, "small")
        begin = now()
        context.lane.catch_up()
        return {"ours": now() - begin}

    @torch.inference_mode()
    def bare_pass() -> dict[str, float]:
        context.start_again()
        context.lane.catch_up()
        begin = now()
        forward(model, context.cache, argument, written)
        return {"bare": now() - begin}

    def encode_again() -> None:
        Lane(context.model, pair.shapes["large"], [both], len(both)).catch_up()

    least, spread = in_turns([hand_over, bare_pass], plan.turns, plan.seconds)
    rows = [DecodeRow.of("hand-over", job, least["ours"] / least["bare"], spread)]
    if "encode-again" in plan.only:
        again, _ = in_turns([timed("again", encode_again, now)], 1, 0, warm=False)
        rows.append(DecodeRow.of("encode-again", job, again["again"] / least["ours"], spread))
    return rows


_GROUPS: dict[str, Callable[[Job, DecodePlan], Sequence[DecodeRow]]] = {
    "decode": _decode,
    "whole": _whole,
    "hand-over": _hand_over,
    "answers": decode_answers.rows,
    "overlap": decode_answers.overlapped,
    "memory": decode_memory.rows,
}
