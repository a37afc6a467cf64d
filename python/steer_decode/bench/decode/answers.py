"""Whole answers of the demo pair or a given one.

Routed, predicted, by assisted decoding and by our own drafts, and in a cohort. A second of answers
is long enough to meet whatever else the machine does; a millisecond of a pass is not, and the ratio
of their least times would tell of that. So what a routed answer should take is measured as the
answer is: its forward passes, bare and in their order, right after it. Of each answer the least
time counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch

from ...core.transcript import WRITERS, Transcript, Writer
from ...decode.router import Router
from ...demo import DOMAINS, problems
from ...engines.hf.cache_support import cache_argument
from ...engines.hf.cpu import patched
from ...engines.hf.lane import Lane
from ...errors import SteerError
from ...models.pair import Pair, loaded
from ...policies import FirstTokenEntropy
from ...policies.speculative import Speculative
from . import overlap
from .models import demo_pair, plain
from .plan import DecodePlan, DecodeRow, Job
from .turns import Clock, Turn, clock, forward, in_turns, run_generate, timed, total

MAX_NEW_TOKENS = 200  # an answer of the demo pair is much shorter
_WAY_OUT = "in half precision near ties fall either way, so give --dtype float32"


class DecodePass(NamedTuple):
    """What the time of a forward pass depends on.

    Whose it is, and over how many new tokens.
    """

    writer: Writer
    tokens: int


# The two sides of a ratio; a cohort is timed as a whole.
_RATIOS = {
    "predicted": ("routed", "predicted"),
    "assisted": ("assisted", "routed"),
    "speculative": ("speculative:k=auto", "assisted"),
    "speculative-k4": ("speculative:k=4", "assisted"),
}


@lru_cache(maxsize=1)
def _demo() -> Pair:
    return demo_pair()


def rows(job: Job, plan: DecodePlan) -> list[DecodeRow]:
    """As many rows as ``plan`` asks for.

    Their context is that of the longest prompt.

    Raises:
        SteerError: an answer by drafts is not the large model's own.
    """
    pair, prompts, tokens = asked(plan)
    now = clock(job.threads)
    router, options = Router(pair, FirstTokenEntropy(0.5)), {"max_new_tokens": tokens}
    wanted = {measure: sides for measure, sides in _RATIOS.items() if measure in plan.only}
    sides = {side for both in wanted.values() for side in both}
    calls: dict[str, Callable[[int], object]] = {}
    if "routed" in sides or "cohort" in plan.only:
        calls["routed"] = lambda answer: router.generate(prompts[answer], **options)
    if "predicted" in sides:
        again = DecodeReplay(pair)
        passes = [passes_of(router, prompt, tokens) for prompt in prompts]
        calls["predicted"] = lambda answer: again.run(passes[answer])
    calls |= drafted(pair, prompts, tokens, sides)
    turns = [answer_by_answer(calls, len(prompts), now)]
    if "cohort" in plan.only:
        turns.append(timed("cohort", partial(router.cohort, prompts, **options), now))
    least, spread = in_turns(turns, plan.turns, plan.seconds)
    found = {name: total(least, a) / total(least, b) for name, (a, b) in wanted.items()}
    if "cohort" in plan.only:
        # A cohort is timed as a whole, and so are then the answers one by one.
        found["cohort"] = least["routed"] / least["cohort"]
    longest = max(len(pair.encode(prompt)) for prompt in prompts)
    return [DecodeRow.of(name, job, value, spread, longest) for name, value in found.items()]


def asked(plan: DecodePlan) -> tuple[Pair, list[str], int]:
    """Pair, prompts, and most tokens of an answer."""
    each = -(-plan.problems // len(DOMAINS))
    mixed = [p for some in zip(*(problems(d, each) for d in DOMAINS), strict=True) for p in some]
    prompts = [problem.prompt for problem in mixed[: plan.problems]]
    return plain(plan.given) if plan.given else _demo(), prompts, plan.tokens or MAX_NEW_TOKENS


def overlapped(job: Job, plan: DecodePlan) -> list[DecodeRow]:
    """One model after the other, over both at once.

    On as many processor cores.
    """
    pair, prompts, tokens = asked(plan)
    longest = max(len(pair.encode(prompt)) for prompt in prompts)
    rows = []
    for name, sides in overlap.turns(pair, prompts, tokens, job.threads).items():
        if name in plan.only:
            least, spread = in_turns(sides, plan.turns, plan.seconds)
            ratio = least["alone"] / least["beside"]
            rows.append(DecodeRow.of(name, job, ratio, spread, longest))
    return rows


def drafted(
    pair: Pair, prompts: Sequence[str], tokens: int, sides: Container[str]
) -> dict[str, Callable[[int], object]]:
    """The large model's answers, drafted by the small one.

    "assisted" is ``generate`` of transformers with an assistant, as its defaults have it; any other
    is a router. Each checks whenever it has answered that the answer is the large model's greedy
    one, token by token: so all of them do the same work.

    Args:
        pair: that answers.
        prompts: what is answered, by its place.
        tokens: most of an answer.
        sides: which of them are wanted.

    Raises:
        SteerError: from a call, if the answer is another one.
    """
    ids = [torch.tensor([pair.encode(prompt)]) for prompt in prompts]

    def theirs(answer: int, **more: Any) -> list[int]:
        out = run_generate(pair.large, ids[answer], tokens, **more)
        written: list[int] = out[0, ids[answer].shape[1] :].tolist()
        return written

    def ours(router: Router, answer: int) -> list[int]:
        return router.generate(ids[answer][0].tolist(), max_new_tokens=tokens).token_ids

    writers: dict[str, Callable[[int], list[int]]] = {
        "speculative:k=auto": partial(ours, Router(pair, Speculative("auto"))),
        "speculative:k=4": partial(ours, Router(pair, Speculative(4))),
        "assisted": partial(theirs, assistant_model=pair.small),
    }
    writers = {side: write for side, write in writers.items() if side in sides}
    own = [theirs(answer) for answer in range(len(prompts))] if writers else []

    def checked(side: str, write: Callable[[int], list[int]], answer: int) -> None:
        if write(answer) != own[answer]:
            raise SteerError(
                f"{side} answered {prompts[answer]!r} with other tokens than the large model, so "
                f"that their times do not compare: {_WAY_OUT}"
            )

    return {side: partial(checked, side, write) for side, write in writers.items()}


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


def passes_of(router: Router, prompt: str, tokens: int = MAX_NEW_TOKENS) -> list[DecodePass]:
    """The forward passes behind a routed answer, in order.

    ``prompt`` is what is answered, by ``tokens`` at most.
    """
    passes: list[DecodePass] = []
    with contextlib.ExitStack() as hooks:
        for writer in WRITERS:
            hooks.enter_context(_noted(loaded(router.pair).model(writer), writer, passes))
        router.generate(prompt, max_new_tokens=tokens)
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
