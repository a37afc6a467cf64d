"""Runs of a router beside the loop that recomputes everything."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

from steer_decode import (
    Pair,
    Policy,
    RandomShare,
    Router,
)
from support.tiny import prompt_ids

LIMIT = 60


def usual_max_logit(pair: Pair, seed: int) -> float:
    """A threshold in the midst of the scores, so that both verdicts occur, and on none of them."""
    out = run(pair, RandomShare(0.5), seed)
    return statistics.quantiles((s.score for s in out.trace.kept), n=3)[1] + 1e-3


def run(pair: Pair, policy: Policy, seed: int, limit: int = LIMIT, **options: float):
    prompt = prompt_ids(seed)
    router = Router(pair, policy)
    with given_ids(pair, prompt):
        return router.generate("as given", max_new_tokens=limit, seed=seed, **options)


@contextmanager
def given_ids(pair: Pair, ids: list[int]) -> Iterator[None]:
    """Lets a prompt be any ids, also those that no text would be split into."""
    object.__setattr__(pair, "encode", lambda prompt, chat=None: ids)
    try:
        yield
    finally:
        object.__delattr__(pair, "encode")
