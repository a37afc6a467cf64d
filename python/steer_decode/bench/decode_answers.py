"""Whole answers of the demo pair: routed, predicted, by assisted decoding, and in a cohort."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ..cache_support import cache_argument
from ..demo import DOMAINS, problems
from ..pair import Pair
from ..policies import FirstTokenEntropy
from ..router import Router
from ..transcript import WRITERS, Writer
from .decode_models import demo_pair
from .decode_plan import Job, Plan, Row
from .decode_turns import Clock, Context, Turn, clock, forward, in_turns, run_generate, timed

MAX_NEW_TOKENS = 200  # an answer is about half as long


class Pass(NamedTuple):
    """What the time of a forward pass depends on: whose, and over how many new tokens."""

    writer: Writer
    tokens: int


@lru_cache(maxsize=1)
def _pair() -> Pair:
    return demo_pair()


def rows(job: Job, plan: Plan) -> list[Row]:
    """As many rows as ``plan`` asks for; their context is that of the longest prompt."""
    pair, now = _pair(), clock(job.threads)
    each = -(-plan.problems // len(DOMAINS))
    mixed = [p for some in zip(*(problems(d, each) for d in DOMAINS), strict=True) for p in some]
    prompts = [problem.prompt for problem in mixed[: plan.problems]]
    router = Router(pair, FirstTokenEntropy(0.5))
    longest = max(len(pair.encode(prompt)) for prompt in prompts)
    passes, kept = count_passes(router, prompts)

    def routed() -> None:
        router.generate(prompts, max_new_tokens=MAX_NEW_TOKENS)

    def assisted() -> None:
        for prompt in prompts:
            ids = torch.tensor([pair.encode(prompt)])
            run_generate(pair.large, ids, MAX_NEW_TOKENS, assistant_model=pair.small)

    def cohort() -> None:
        router.cohort(prompts, max_new_tokens=MAX_NEW_TOKENS)

    contenders = {"routed": routed}
    found = {}
    if "assisted" in plan.only:
        contenders["assisted"] = assisted
    if "cohort" in plan.only:
        contenders["cohort"] = cohort
    turns = [timed(name, call, now) for name, call in contenders.items()]
    least, spread = in_turns(turns, plan.turns, plan.seconds)
    if "predicted" in plan.only:
        times = bare_times(pair, passes, longest + kept // 2, plan, now)
        found["predicted"] = least["routed"] / predict(passes, times)
    for name in ("assisted", "cohort"):
        if name in contenders:
            # How many times longer assisted decoding takes, and how many times shorter a cohort.
            pair_of = (name, "routed") if name == "assisted" else ("routed", name)
            found[name] = least[pair_of[0]] / least[pair_of[1]]
    return [Row.of(name, job, value, spread, longest) for name, value in found.items()]


def count_passes(router: Router, prompts: Sequence[str]) -> tuple[Counter[Pass], int]:
    """Every forward pass behind the answers to ``prompts``, one after another, by kind.

    Returns:
        How many of each kind, and the tokens of the longest answer.
    """
    passes: Counter[Pass] = Counter()
    with contextlib.ExitStack() as hooks:
        for writer in WRITERS:
            hooks.enter_context(_counted(router.pair.model(writer), writer, passes))
        answers = router.generate(list(prompts), max_new_tokens=MAX_NEW_TOKENS)
    return passes, max(len(answer.token_ids) for answer in answers)


@contextlib.contextmanager
def _counted(model: Any, writer: Writer, passes: Counter[Pass]) -> Iterator[None]:
    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        passes[Pass(writer, kwargs["input_ids"].shape[1])] += 1

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def bare_times(
    pair: Pair, passes: Counter[Pass], context: int, plan: Plan, now: Clock
) -> dict[Pass, float]:
    """Least seconds of a bare forward pass of each kind, at one context.

    The demo's texts are so short that the context hardly matters.
    """
    longest = max(kind.tokens for kind in passes)
    contexts = {w: Context(pair, context, longest, w) for w in WRITERS}

    def turn(kind: Pass) -> Turn:
        where = contexts[kind.writer]
        argument = cache_argument(where.model)
        ids = [i % pair.vocab_size for i in range(kind.tokens)]

        @torch.inference_mode()
        def run() -> dict[str, float]:
            where.start_again()
            begin = now()
            int(forward(where.model, where.cache, argument, ids)[0].argmax())
            return {str(kind): now() - begin}

        return run

    # A pass takes a millisecond: many turns cost nothing.
    least, _ = in_turns([turn(kind) for kind in passes], 5 * plan.turns, plan.seconds / 4)
    return {kind: least[str(kind)] for kind in passes}


def predict(passes: Counter[Pass], times: dict[Pass, float]) -> float:
    """Seconds that the passes take alone."""
    return sum(count * times[kind] for kind, count in passes.items())
