"""Makes the calibration of ``both-sides`` from prompts without labels.

1. The large model answers alone. How likely its own steps are to it says what consent means: a
   draft has it if its mean log-probability is no lower than that of all but :data:`OWN` of these
   steps, or than :data:`ENOUGH` where the large model is surer than that of all it writes.
2. The small model drafts and the large one reads every draft; it writes the tokens that it does
   not consent to, and the small model goes on. The same answers are written once for each signal.
3. Signals and ways to spend are compared on the recorded drafts (``schedules``) by the area under
   the curve of consent against each cost, and the best by each is taken. How well each signal alone
   tells drafts with consent from those without (AUROC) is kept for the reader.
4. What was taken is run, at every place of its schedule, to see which share of the tokens the large
   model then writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.events import RoutedOutput
from ..core.signals import SIGNALS, Signal, get_signal
from ..core.trace import Step
from ..core.transcript import WRITERS, Writer
from ..errors import SteerError
from ..policies import AlwaysLarge, BothSides, Mend, Policy
from ..policies.both_sides import OVER, refused
from ..policies.fitted.both_sides import COSTS, BothSidesCalibration, Knot, Plan, Thresholds
from ..util.numbers import auroc
from .mixtures import Prompts
from .schedules import Draft, Forecast, RecordedDrafts, Schedule, schedules

OWN = 0.05
ENOUGH = -0.1  # nats a token
FEWEST = 20


_Place = tuple[str, str, str, Thresholds]


@dataclass(frozen=True)
class _Way:
    """One way to spend with one signal, and the area that is forecast for it by each cost."""

    signal: str
    over: str
    schedule: Schedule
    bounds: tuple[float, float]
    areas: dict[str, float]

    def worth(self, cost: str) -> tuple[float, float]:
        """Its area, and what it saves by the other costs.

        The latter tells equals apart.
        """
        return round(self.areas[cost], 3), sum(self.areas.values())


def calibrate_sides(run: Prompts, signals: Sequence[str] = tuple(SIGNALS)) -> BothSidesCalibration:
    """Signals, thresholds and shares of a pair.

    Args:
        run: pair, prompts and options; its own signal is not looked at.
        signals: names of those to choose from.

    Raises:
        SteerError: too few prompts, or a large model that consents to all drafts or to none.
    """
    runs = 1 + len(signals)
    run.expects(runs * len(run.prompts), "at least")
    keep = _own_likelihood(run)
    recorded = {name: _drafted(run, name, keep) for name in signals}
    tells = {name: told(recorded[name], get_signal(name), keep) for name in signals}
    ways = [
        way
        for name in signals
        for over in OVER
        for way in _ways(run, recorded[name], name, over, keep)
    ]
    chosen = {cost: max(ways, key=lambda way: way.worth(cost)) for cost in COSTS}
    places = {_place(way, t) for way in chosen.values() for t in way.schedule.places}
    run.expects((runs + len(places)) * len(run.prompts), "")
    shares: dict[_Place, float] = {}
    plans = {cost: _plan(run, way, shares) for cost, way in chosen.items()}
    drafts = [step for output in recorded[signals[0]] for step in _drafts(output)]
    agreement = {
        "auroc": tells,
        "consent_at": round(keep, 4),
        "drafts": len(drafts),
        "with_consent": sum(_consents(step, keep) for step in drafts),
        "forecast_area": {cost: round(way.areas[cost], 4) for cost, way in chosen.items()},
    }
    settings = {"prompts": len(run.prompts), **run.options}
    return BothSidesCalibration(run.pair.fingerprint, plans, agreement, settings)


def _ways(
    run: Prompts, outputs: Sequence[RoutedOutput], name: str, over: str, keep: float
) -> list[_Way]:
    answers = [_answer(output, get_signal(name), over, keep) for output in outputs]
    values = [
        v for a in answers for draft in a.drafts for v in (draft.first_confidence, draft.confidence)
    ]
    margin = 1e-3 + 0.01 * (max(values) - min(values))
    bounds = min(values) - margin, max(values) + margin
    forecast = Forecast(answers, run.pair.shapes)
    return [
        _Way(name, over, p, bounds, forecast.area(p)) for p in schedules(answers, keep, *bounds)
    ]


def _own_likelihood(run: Prompts) -> float:
    """The mean log-probability that all but a few of the large model's own steps reach."""
    policy = AlwaysLarge()
    policy.signal = get_signal("max-prob")
    steps = [s for output in run.answers(policy) for s in output.trace.kept if s.closed]
    if len(steps) < FEWEST:
        raise SteerError(
            f"cannot calibrate on {len(steps)} steps of the large model: {FEWEST} or more are "
            "needed; give more prompts"
        )
    means = [float(np.log(np.maximum(step.values, 1e-30)).mean()) for step in steps]
    return min(float(np.quantile(means, OWN)), ENOUGH)


class _Reading(Policy):
    """The large model reads every draft, which is mended where it does not consent."""

    name: ClassVar[str] = "reading"
    grades = True

    def __init__(self, signal: str, keep: float) -> None:
        self.signal = get_signal(signal)
        self._keep = keep

    def after_step(self, step: Step) -> Writer | Mend:
        token = refused(step, self._keep)
        return "small" if token is None else Mend(token)


def _drafted(run: Prompts, signal: str, keep: float) -> list[RoutedOutput]:
    """Every draft read by the large model, with the values of one signal."""
    return list(run.answers(_Reading(signal, keep)))


def _drafts(output: RoutedOutput) -> list[Step]:
    """Of each step the first draft, as the small model wrote it."""
    return [step for step in output.trace.steps if step.graded and not step.others]


def _consents(step: Step, keep: float) -> bool:
    """Whether the large model would have written every token, or finds the draft likely enough."""
    return all(step.likeliest) or _mean(step.graded) >= keep


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def told(outputs: Sequence[RoutedOutput], signal: Signal, keep: float) -> dict[str, float]:
    """AUROC of the signal for the large model's consent.

    At the first token, and over all.

    Raises:
        SteerError: too few drafts, or consent to all of them or to none.
    """
    drafts = [step for output in outputs for step in _drafts(output)]
    consent = [_consents(step, keep) for step in drafts]
    if len(drafts) < FEWEST or len(set(consent)) < 2:
        raise SteerError(
            f"the large model consents to {sum(consent)} of {len(drafts)} drafts: a calibration "
            f"needs {FEWEST} drafts and both kinds; give more prompts, like those to be asked"
        )
    ways = {"first": lambda values: values[0], **OVER}
    found = {}
    for name, way in ways.items():
        values = [way([signal.confidence(v) for v in step.values]) for step in drafts]
        right = [v for v, yes in zip(values, consent, strict=True) if yes]
        wrong = [v for v, yes in zip(values, consent, strict=True) if not yes]
        found[name] = round(auroc(right, wrong), 4)
    return found


def _answer(output: RoutedOutput, signal: Signal, over: str, keep: float) -> RecordedDrafts:
    mends: dict[int, list[tuple[int, int]]] = {}
    for step in output.trace.steps:
        if step.others:
            mends.setdefault(step.index, []).append((step.others[-1], len(step.token_ids)))
    drafts = []
    for step in _drafts(output):
        values = [signal.confidence(value) for value in step.values]
        foreign = [i for i, own in enumerate(step.likeliest) if not own]
        draft = Draft(
            first_confidence=values[0],
            confidence=OVER[over](values),
            grade=_mean(step.graded),
            worst=min((step.graded[i] for i in foreign), default=0.0),
            token_count=len(values),
            agrees=_consents(step, keep),
            foreign=foreign,
            mends=mends.get(step.index, []),
        )
        drafts.append(draft)
    return RecordedDrafts(len(output.trace.prompt_ids), drafts)


def _plan(run: Prompts, way: _Way, known: dict[_Place, float]) -> Plan:
    """The places of a way with the shares that they were seen to give.

    Args:
        known: shares that were seen before; those that are new are added.
    """
    start, end = _ends(way)
    knots = [start]
    for thresholds in way.schedule.places:
        key = _place(way, thresholds)
        if key not in known:
            known[key] = _share(run, way, thresholds)
        share = round(known[key], 4)
        if knots[-1].share < share < 1:
            knots.append(Knot(share, thresholds))
    return Plan(way.signal, way.over, way.bounds[0], [*knots, end], way.schedule.fix)


def _place(way: _Way, thresholds: Thresholds) -> _Place:
    return way.signal, way.over, way.schedule.fix, thresholds


def _ends(way: _Way) -> tuple[Knot, Knot]:
    """The small model alone and the large one, in the terms of a schedule."""
    first, last = way.schedule.places[0], way.schedule.places[-1]
    lowest, highest = way.bounds
    never = min(t.keep for t in way.schedule.places) - 1
    unread = first.sure <= first.doubt
    small = Thresholds(lowest if unread else first.sure, never, lowest, lowest, first.hold)
    sure = last.sure if unread else highest
    return Knot(0.0, small), Knot(1.0, Thresholds(sure, last.keep, highest, last.doubt, last.hold))


def _share(run: Prompts, way: _Way, thresholds: Thresholds) -> float:
    """Share of kept tokens that the large model writes at ``thresholds``."""
    knots = [Knot(0.0, thresholds), Knot(1.0, thresholds)]
    plan = Plan(way.signal, way.over, way.bounds[0], knots, way.schedule.fix)
    fixed = BothSidesCalibration(run.pair.fingerprint, dict.fromkeys(COSTS, plan))
    tokens = {"small": 0, "large": 0}
    for output in run.answers(BothSides(share=0.5, path=fixed)):
        for step in output.trace.kept:
            for writer in WRITERS:
                tokens[writer] += step.by(writer)
    return tokens["large"] / max(1, sum(tokens.values()))
