"""Whole answers of the demo pair.

Routed, predicted, by assisted decoding, and in a cohort. A second of answers is long enough to meet
whatever else the machine does; a millisecond of a pass is not, and the ratio of their least times
would tell of that. So what a routed answer should take is measured as the answer is: its forward
passes, bare and in their order, right after it. Of each answer the least time counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch

from ...core.transcript import WRITERS, Transcript, Writer
from ...decode.router import Router
from ...demo import DOMAINS, problems
from ...engines.hf.cache_support import cache_argument
from ...engines.hf.cpu import patched
from ...engines.hf.lane import Lane
from ...models.pair import Pair
from ...policies import FirstTokenEntropy
from .models import demo_pair
from .plan import DecodePlan, DecodeRow, Job
from .turns import Clock, Turn, clock, forward, in_turns, run_generate, timed, total

MAX_NEW_TOKENS = 200  # an answer is about half as long


class DecodePass(NamedTuple):
    """What the time of a forward pass depends on.

    Whose it is, and over how many new tokens.
    """

    writer: Writer
    tokens: int


@lru_cache(maxsize=1)
def _pair() -> Pair:
    return demo_pair()


def rows(job: Job, plan: DecodePlan) -> list[DecodeRow]:
    """As many rows as ``plan`` asks for.

    Their context is that of the longest prompt.
    """
    pair, now = _pair(), clock(job.threads)
    each = -(-plan.problems // len(DOMAINS))
    mixed = [p for some in zip(*(problems(d, each) for d in DOMAINS), strict=True) for p in some]
    prompts = [problem.prompt for problem in mixed[: plan.problems]]
    router, options = Router(pair, FirstTokenEntropy(0.5)), {"max_new_tokens": MAX_NEW_TOKENS}
    passes = [passes_of(router, prompt) for prompt in prompts]
    again = DecodeReplay(pair)

    def assisted(answer: int) -> None:
        ids = torch.tensor([pair.encode(prompts[answer])])
        run_generate(pair.large, ids, MAX_NEW_TOKENS, assistant_model=pair.small)

    one_by_one: dict[str, Callable[[int], object]] = {
        "routed": lambda answer: router.generate(prompts[answer], **options)
    }
    if "predicted" in plan.only:
        one_by_one["predicted"] = lambda answer: again.run(passes[answer])
    if "assisted" in plan.only:
        one_by_one["assisted"] = assisted
    turns = [answer_by_answer(one_by_one, len(prompts), now)]
    if "cohort" in plan.only:
        turns.append(timed("cohort", partial(router.cohort, prompts, **options), now))
    least, spread = in_turns(turns, plan.turns, plan.seconds)
    found = {}
    if "predicted" in one_by_one:
        found["predicted"] = total(least, "routed") / total(least, "predicted")
    if "assisted" in one_by_one:
        found["assisted"] = total(least, "assisted") / total(least, "routed")
    if "cohort" in plan.only:
        # A cohort is timed as a whole, and so are then the answers one by one.
        found["cohort"] = least["routed"] / least["cohort"]
    longest = max(len(pair.encode(prompt)) for prompt in prompts)
    return [DecodeRow.of(name, job, value, spread, longest) for name, value in found.items()]


def answer_by_answer(calls: dict[str, Callable[[int], object]], answers: int, now: Clock) -> Turn:
    """A turn that calls each of ``calls`` for every answer.

    One answer comes after another. Its times are the sum by name, and those of each answer.
    """

    def turn() -> dict[str, float]:
        found = dict.fromkeys(calls, 0.0)
        for answer in range(answers):
            for name, call in calls.items():
                begin = now()
                call(answer)
                found[f"{name} {answer}"] = passed = now() - begin
                found[name] += passed
        return found

    return turn


def passes_of(router: Router, prompt: str) -> list[DecodePass]:
    """The forward passes behind a routed answer, in order.

    ``prompt`` is what is answered.
    """
    passes: list[DecodePass] = []
    with contextlib.ExitStack() as hooks:
        for writer in WRITERS:
            hooks.enter_context(_noted(router.pair.model(writer), writer, passes))
        router.generate(prompt, max_new_tokens=MAX_NEW_TOKENS)
    return passes


@contextlib.contextmanager
def _noted(model: Any, writer: Writer, passes: list[DecodePass]) -> Iterator[None]:
    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        passes.append(DecodePass(writer, kwargs["input_ids"].shape[1]))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class DecodeReplay:
    """The forward passes of an answer, run bare.

    Their caches are of the same kind.
    """

    def __init__(self, pair: Pair) -> None:
        self._vocab_size = pair.vocab_size
        self._lanes: dict[Writer, Lane] = {
            w: Lane(pair.model(w), pair.shapes[w], [Transcript([])]) for w in WRITERS
        }
        self._models = {w: patched(pair.model(w)) for w in WRITERS}
        self._arguments = {w: cache_argument(pair.model(w)) for w in WRITERS}

    @torch.inference_mode()
    def run(self, passes: Sequence[DecodePass]) -> None:
        """The passes of an answer, from an empty cache."""
        for lane in self._lanes.values():
            lane.roll_back(0, 0)
        for writer, tokens in passes:
            lane = self._lanes[writer]
            ids = [i % self._vocab_size for i in range(tokens)]
            int(forward(self._models[writer], lane.cache, self._arguments[writer], ids)[0].argmax())
