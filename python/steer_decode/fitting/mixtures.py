"""How a calibration of a pair is made.

It runs over prompts, its scores are gathered, and a mixture is fitted to each bin. Scores shift
once routing is on: a step follows other steps than it did at even odds. With a target share of
large-model tokens the prompts are therefore run again with routing on, gamma is bisected, the
mixtures are fitted anew to what was seen, and so on until the share holds under fits that were made
with routing on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..core.events import Done, RoutedOutput
from ..core.signals import get_signal
from ..core.transcript import WRITERS, Writer
from ..decode.router import Router
from ..errors import SteerError
from ..models.pair import Pair
from ..policies import Policy, RandomShare, Steer
from ..policies.fitted import mixture
from ..policies.fitted.calibration import Calibration, index_bin
from ..policies.fitted.mixture import TwoGaussians
from ..util.partial import Partial
from .kept import kept_answers

CLOSE = 0.02  # the achieved share is to lie as near to the target
_HALVINGS = 7
_REFITS = 3

Scores = dict[Writer, dict[int, list[float]]]


@dataclass(frozen=True)
class Prompts:
    """What is run to calibrate a pair.

    Attributes:
        pair: the models.
        prompts: texts like those that will be asked; a hundred or more.
        signal: name of the signal whose mean over a step is the score.
        options: of :meth:`Router.stream_cohort`, as they will be used.
        cohort: answers at a time.
        progress: called after each answer.
        expects: called with the number of answers that there will be, and "at most", "at least" or
            "" before it, when that is known.
        kept: keeps answers over an interruption.
    """

    pair: Pair
    prompts: Sequence[str]
    signal: str = "max-logit"
    options: dict[str, Any] = field(default_factory=dict)
    cohort: int = 1
    progress: Callable[[], None] = lambda: None
    expects: Callable[[int, str], None] = lambda answers, bound: None
    kept: Partial | None = None

    def answers(self, policy: Policy) -> Iterator[RoutedOutput]:
        """Every prompt answered under ``policy``.

        What is kept are whole cohorts: how an answer is rounded may depend on whom it is computed
        with.
        """
        router = Router(self.pair, policy)
        for first in range(0, len(self.prompts), self.cohort):
            make = partial(self._cohort, router, first)
            yield from make() if self.kept is None else kept_answers(self.kept, make)

    def _cohort(self, router: Router, first: int) -> Iterator[RoutedOutput]:
        some = self.prompts[first : first + self.cohort]
        options = {**self.options, "seed": int(self.options.get("seed", 0)) + first}
        for _, event in router.stream_cohort(some, **options):
            if isinstance(event, Done):
                self.progress()
                yield event.output


def runs_of(large_share: float | None) -> int:
    """How often :func:`calibrate` answers every prompt, at most."""
    return 1 if large_share is None else 1 + _REFITS * (_HALVINGS + 1)


def calibrate(
    run: Prompts, *, gamma: float = 0.6, large_share: float | None = None
) -> tuple[Calibration, Scores]:
    """Fit the score mixtures of a pair.

    At first each step is written by either model at even odds, so that both are seen after their
    own steps and after the other's.

    Args:
        run: what to run.
        gamma: kept with the calibration, as the router's default.
        large_share: share of large-model tokens to aim at instead, between 0 and 1; gamma is found.

    Returns:
        The calibration, whose settings say which share was achieved, and the scores that were
        fitted, by writer and step-index bin.

    Raises:
        SteerError: gamma or large_share out of range; or too few steps of the small model to fit
            anything to.
    """
    if not 0 <= gamma <= 1:
        raise SteerError(f"gamma must lie in [0, 1], got {gamma}")
    if large_share is not None and not 0 < large_share < 1:
        raise SteerError(f"large_share must lie between 0 and 1, got {large_share}")
    run.expects(runs_of(large_share) * len(run.prompts), "" if large_share is None else "at most")
    scores, _ = _gather(run, RandomShare(0.5, get_signal(run.signal)))
    steps = len(scores["small"][-1])
    if steps < mixture.MIN_SCORES:
        raise SteerError(
            f"{len(run.prompts)} prompt(s) gave {steps} steps of the small model, and a mixture "
            f"needs {mixture.MIN_SCORES} at least: give more prompts, a hundred or more"
        )
    made = _fitted(run, scores)
    if large_share is None:
        return _with(made, gamma=gamma), scores
    for _ in range(_REFITS):
        gamma, share, seen = _bisect(run, made, large_share)
        best = _with(made, gamma=gamma, large_share=large_share, achieved_share=round(share, 4))
        refitted = _fitted(run, seen)
        _, shifted = _gather(run, Steer(refitted, gamma))
        if abs(shifted - large_share) <= CLOSE:
            figures = {"gamma": gamma, "large_share": large_share}
            return _with(refitted, **figures, achieved_share=round(shifted, 4)), seen
        made, scores = refitted, seen
    return best, scores


def _bisect(run: Prompts, made: Calibration, target: float) -> tuple[float, float, Scores]:
    """(gamma, share, scores) of the run nearest to ``target``; the share grows with gamma."""
    low, high = 0.0, 1.0
    found: list[tuple[float, float, Scores]] = []
    for _ in range(_HALVINGS):
        gamma = (low + high) / 2
        scores, share = _gather(run, Steer(made, gamma))
        found.append((gamma, share, scores))
        if abs(share - target) <= CLOSE / 2:
            break
        low, high = (gamma, high) if share < target else (low, gamma)
    return min(found, key=lambda one: abs(one[1] - target))


def _gather(run: Prompts, policy: Policy) -> tuple[Scores, float]:
    """Scores by writer and bin (-1: all), and the share of large-model tokens among those kept."""
    scores: Scores = {w: defaultdict(list) for w in WRITERS}
    tokens = dict.fromkeys(WRITERS, 0)
    for output in run.answers(policy):
        for step in output.trace.kept:
            tokens[step.writer] += len(step.token_ids)
        for step in output.trace.steps:
            if step.closed:
                for key in (index_bin(step.index), -1):
                    confidence = policy.signal.confidence(step.score)
                    scores[step.writer][key].append(confidence)
    return scores, tokens["large"] / max(1, sum(tokens.values()))


def _fitted(run: Prompts, scores: Scores) -> Calibration:
    fits: dict[Writer, dict[int, TwoGaussians]] = {w: {} for w in WRITERS}
    for writer in WRITERS:
        for key, values in sorted(scores[writer].items()):
            fitted = mixture.fit(values)
            if fitted is not None:
                fits[writer][key] = fitted
    counts = {w: {key: len(values) for key, values in sorted(scores[w].items())} for w in WRITERS}
    settings = {"prompts": len(run.prompts), **run.options}
    return Calibration(run.pair.fingerprint, get_signal(run.signal).name, fits, counts, settings)


def _with(calibration: Calibration, **figures: object) -> Calibration:
    return replace(calibration, settings={**calibration.settings, **figures})
