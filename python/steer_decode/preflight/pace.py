"""How fast a pair answers, by a few timed passes.

Each model begins to answer the first prompts alone, in a cohort as large as the work's, and is cut
off :data:`LOOK` seconds behind its first token. So there is a time of reading a prompt, a time of a
token, and, where nearly all answers have ended by then, the length of an answer. Else the length is
assumed: half of the most that an answer may have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from ..core.events import TextDelta
from ..core.transcript import WRITERS, Writer
from ..decode.router import Router
from ..models.pair import Pair
from ..models.two_models import TwoModels
from ..policies import AlwaysLarge, AlwaysSmall, Policy, RandomShare
from ..util.progress import span

LOOK = 0.5  # seconds of writing that each model is given
MOST = 0.75  # of the answers have to end, or the short ones alone would tell the length
WARM = 4  # tokens that are written behind one prompt alone, before the cohort
AFFORDED = 2.0  # seconds of reading prompts, for each model
SHORT = 16  # tokens of a prompt's end
SMALL_WORK = 2e11  # FLOPs; what takes no longer than this is done before anybody has read of it
_TEMPLATE = ("chat", "chat_template_kwargs")


@dataclass(frozen=True)
class Pace:
    """What an answer of either model alone takes.

    Attributes:
        rows: answers that were timed together.
        prompt: seconds until its first token, by writer, an answer's share.
        token: seconds of each further token, likewise.
        length: tokens of an answer.
        source: where the length is from, in words.
    """

    rows: int
    prompt: Mapping[Writer, float]
    token: Mapping[Writer, float]
    length: float
    source: str

    def of_answer(self, writer: Writer) -> float:
        """Seconds of one answer that ``writer`` writes alone."""
        return self.prompt[writer] + max(0.0, self.length - 1) * self.token[writer]

    def rate(self, writer: Writer) -> float:
        """Tokens a second of all rows together."""
        return 1 / self.token[writer]


@dataclass(frozen=True)
class Work:
    """Answers of one kind.

    Attributes:
        answers: how many.
        small, large: how much of an answer of either model alone each of them takes.
    """

    answers: int
    small: float
    large: float

    @classmethod
    def of(cls, policy: Policy, answers: int) -> Work:
        """Answers of a router.

        One that goes from model to model counts as both: each reads what the other wrote, and
        drafts are thrown away; how many, nobody knows before.
        """
        if isinstance(policy, AlwaysSmall):
            return cls(answers, 1, 0)
        if isinstance(policy, AlwaysLarge):
            return cls(answers, 0, 1)
        if isinstance(policy, RandomShare):
            return cls(answers, 1 - policy.share, policy.share)
        return cls(answers, 1, 1)


def measure(
    pair: Pair,
    prompts: Sequence[str],
    options: Mapping[str, Any],
    lengths: Sequence[float] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Pace:
    """Time both models on the first cohort.

    Args:
        pair: the models.
        prompts: of a cohort, which are answered together.
        options: of ``Router.stream_cohort``.
        lengths: tokens of answers that are there already, if any.
        clock: seconds from any start.

    Raises:
        SteerError: as ``Router.stream_cohort``.
    """
    prompt: dict[Writer, float] = {}
    token: dict[Writer, float] = {}
    written: list[tuple[int, bool]] = []
    for writer, policy in zip(WRITERS, (AlwaysSmall(), AlwaysLarge()), strict=True):
        prompt[writer], token[writer], some = _timed(Router(pair, policy), prompts, options, clock)
        written += some
    ended = sum(over for _, over in written)
    limit = int(options.get("max_new_tokens", 1024))
    length, source = limit / 2, "assumed, half of --max-new-tokens"
    if lengths:
        length, source = fmean(lengths), f"as of the {len(lengths)} that are there"
    elif written and ended >= MOST * len(written):
        length, source = fmean(n for n, _ in written), f"as of the first {len(written)}"
    return Pace(len(prompts), prompt, token, length, source)


def _timed(
    router: Router, prompts: Sequence[str], options: Mapping[str, Any], clock: Callable[[], float]
) -> tuple[float, float, list[tuple[int, bool]]]:
    """Seconds of a prompt and of a token, an answer's share; tokens of each, and if it ended.

    Where reading the prompts of a cohort takes long, their ends stand for them, behind which a
    token takes about as long; what would be answered to these is no answer.
    """
    alone, rows = 0.0, len(prompts)
    for _ in range(2):  # what is set up at the first is not what it takes
        begin = clock()
        for _ in router.stream_cohort(prompts[:1], **{**options, "max_new_tokens": WARM}):
            pass
        alone = clock() - begin
    whole = alone * rows <= AFFORDED
    asked: Sequence[Any] = prompts if whole else _ends(router.pair, prompts, options)
    rest = options if whole else {k: v for k, v in options.items() if k not in _TEMPLATE}
    found = _cohort(router, asked, rest, clock)
    if found.seconds < AFFORDED:  # what a cohort sets up at first is not what it takes
        found = _cohort(router, asked, rest, clock)
    return (found.prompt, found.token, found.written) if whole else (alone, found.token, [])


class _Cohort(NamedTuple):
    """What a cohort took in all, until its first token and for each further one, an answer's share.

    ``written`` are the tokens of each answer, and whether it ended.
    """

    seconds: float
    prompt: float
    token: float
    written: list[tuple[int, bool]]


def _cohort(
    router: Router, asked: Sequence[Any], options: Mapping[str, Any], clock: Callable[[], float]
) -> _Cohort:
    begin, rows = clock(), len(asked)
    cohort = router.stream_cohort(asked, **options)
    seen: list[float] = []  # when each token was
    for _, event in cohort:
        if isinstance(event, TextDelta):
            seen.append(clock())
            if seen[-1] - seen[0] > LOOK:
                break
    written = [(len(o.token_ids), bool(o.trace.stop_reason)) for o in cohort.outputs]
    cohort.close()
    end = clock()
    steady = seen[rows:] if len(seen) > 3 * rows else seen  # the first of each behind its prompt
    taken = steady[-1] - steady[0] if steady else 0.0
    prompt = ((seen[0] if seen else end) - begin) / rows
    return _Cohort(end - begin, prompt, max(taken, 1e-9) / max(1, len(steady) - 1), written)


def _ends(pair: TwoModels, prompts: Sequence[str], options: Mapping[str, Any]) -> list[list[int]]:
    told = {name: options[name] for name in _TEMPLATE if name in options}
    return [pair.encode(prompt, **told)[-SHORT:] for prompt in prompts]


def negligible(pair: Pair, answers: int, limit: int) -> bool:
    """Whether so many answers take seconds on any machine.

    Args:
        pair: the models.
        answers: how many.
        limit: most tokens of each.
    """
    most = max(shape.active for shape in pair.shapes.values())
    return 2.0 * most * answers * limit < SMALL_WORK


def forecast(pace: Pace, work: Sequence[Work], workers: int = 1) -> float:
    """Seconds that answers will take.

    Args:
        pace: of the pair.
        work: what is to be written.
        workers: processes that share it, each with a core of its own.
    """
    one = sum(
        w.answers * (w.small * pace.of_answer("small") + w.large * pace.of_answer("large"))
        for w in work
    )
    return one / workers


def sentence(pace: Pace, work: Sequence[Work], bound: str = "about", workers: int = 1) -> str:
    """How long it will take, and what that rests on.

    Args:
        pace, work, workers: as for :func:`forecast`.
        bound: "about", "at least" or "at most".
    """
    answers = sum(w.answers for w in work)
    rates = [f"{pace.rate(w):,.0f}" for w in WRITERS]
    together = f" in cohorts of {pace.rows}" if pace.rows > 1 else ""
    shared = f", shared by {workers} workers" if workers > 1 else ""
    mixed = any(w.small + w.large > 1 and w.answers for w in work)
    counted = "; a router that goes from model to model counts as both" if mixed else ""
    return (
        f"{answers:,} answers will take {bound} {span(forecast(pace, work, workers))}: "
        f"{rates[0]} and {rates[1]} tokens a second of the small and the large model alone"
        f"{together}{shared}, {pace.length:.0f} tokens an answer ({pace.source}){counted}"
    )
