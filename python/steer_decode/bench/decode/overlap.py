"""Two models at once, beside one after the other.

On as many processor cores.

Overlapped, each model has ``threads`` threads. The peer has twice as many for the model that is at
it, so both sides have the same cores. The clock is the one on the wall.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ...decode.router import Router
from ...models.pair import Pair
from ...policies import FirstTokenEntropy
from ..kernels.measure import threads_set_to
from .turns import Turn, timed


def turns(pair: Pair, prompts: Sequence[str], tokens: int, threads: int) -> dict[str, list[Turn]]:
    """For each measure its two sides, "alone" and "beside".

    Args:
        pair: that answers.
        prompts, tokens: what is answered, by how many tokens at most.
        threads: of a model that works beside the other.
    """
    policy, options = FirstTokenEntropy(0.5), {"max_new_tokens": tokens}
    sides = {
        "alone": (Router(pair, policy), 2 * threads),
        "beside": (Router(pair, policy, overlap=True), threads),
    }

    def turn(side: str, answer: Callable[[Router], object]) -> Turn:
        router, n = sides[side]

        def call() -> None:
            with threads_set_to(n):
                answer(router)

        return timed(side, call, time.perf_counter)

    answers: dict[str, Callable[[Router], object]] = {
        "overlap": lambda router: router.generate(list(prompts), **options),
        "overlap-cohort": lambda router: router.cohort(prompts, **options),
    }
    return {name: [turn(side, answer) for side in sides] for name, answer in answers.items()}
