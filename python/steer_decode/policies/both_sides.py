"""BiLD's rule over steps, with sure drafts left unread.

It looks on both sides of a step. Big Little Decoder (BiLD, arXiv 2302.07863) lets the large model
replace the first token of the small one's that it finds too unlikely, and hands over where the
small one is unsure. Ours: the draft is a step, a sure one is not read at all, and one knob sets the
thresholds. At the default ``keep`` the rule is agreement with the large model's argmax, so above
temperature 0 answers follow neither model's distribution.

STEER judges a step when it is written, keeps it, and acts on the next one; GlimpRouter looks at the
first token only and cannot mend what it lets pass. Here one signal of the small model says how sure
it is, at a step's first token before it is written and over its tokens after:

    lost    first token below it: the large model writes the step, no draft is made
    doubt   draft below it: taken back unread, and the large model writes the step
    sure    draft at or above it: it stays, and the large model does not read it
    between the large model reads the draft, in one pass over what it has not read; the first token
            that it would not write itself, nor finds as likely as ``keep``, is refused: it writes
            that token, from logits that this pass has left, and the small model goes on with the
            step, which is judged again from there; the fourth time the large model goes on itself

With ``fix=step`` a draft whose mean log-probability is below ``keep`` is taken back as a whole,
and the large model writes the step. With ``sure=1``, ``lost=0`` and ``fix=step`` this is
SpecReason with log-probabilities; where every draft stays, ``lost`` alone decides, as in
GlimpRouter; and with ``sure=1``, ``lost=0`` and greedy decoding every token is the large model's
own choice, as in speculative decoding (arXiv 2211.17192) with a step for a draft. Nothing is
trained and no label is used. ``hold``, hysteresis, is added to ``lost`` after a step of the large
model, which has then read the answer so far: a step of the small model would have to be read as
well if it took over again.

With ``part`` drafts are judged in parts, not whole steps; with ``loss`` by a promise. ``parts.py``
has both.

With ``share`` one knob sets all of them, by a calibration of the pair (``steer calibrate --router
both-sides``), and ``cost`` says what is to be saved: reading is free as papers count FLOPs, costs
as much as writing in FLOPs processed, and little in bytes and seconds, as the weights are read once
a draft. Without one, the defaults were chosen on 60 calibration problems of each of the demo's
domains.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import fmean
from typing import ClassVar, Literal

from ..core.drafting import Drafting, Rule
from ..core.sampling import Sampling
from ..core.signals import Signal, get_signal
from ..core.trace import Step
from ..core.transcript import Writer
from ..errors import SteerError
from ..models.two_models import TwoModels
from ..util import checks
from .base import REDO, Mend, Policy, Redo, StepStart
from .fitted.both_sides import COST_NAMES, BothSidesCalibration, Thresholds
from .fitted.file import path_setting
from .fitted.promise import Promise
from .parts import SCALES, alone, loaded_promise, parts, promised

OVER: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": lambda values: sum(values) / len(values),
}
PATIENCE = 3  # tokens of one step that are mended before the large model writes the rest
SHIPPED_PROMISE = "both-sides-promise.json"
DEFAULTS = {"sure": 0.95, "keep": -0.1, "lost": 0.0, "doubt": 0.0, "hold": 0.0}


def refused(step: Step, keep: float) -> int | None:
    """The first token that the large model refuses.

    It would not have written it, nor does it find it as likely as ``keep``. One that is its
    likeliest stays: a greedy model would write it again.

    Args:
        step: of the small model, graded or not.
        keep: log-probability, in nats.
    """
    first = len(step.token_ids) - len(step.graded)
    grades = zip(step.graded, step.likeliest, strict=True)
    found = (i for i, (log_prob, own) in enumerate(grades) if log_prob < keep and not own)
    return next((first + i for i in found), None)


class BothSides(Policy):
    """Large model where a step is lost or doubtful.

    Sure drafts stay unread, lost steps it writes, and what lies between it reads and mends.

    Args:
        sure: a draft at least so sure stays unread; at 1 nearly all are read, at 0 none.
        keep: least log-probability under the large model with which what it reads stays, in nats.
        lost: the large model writes a step whose first token is less sure; at 0 it writes none
            unread.
        doubt: a draft that is less sure is taken back unread.
        hold: is added to ``lost`` after a step of the large model.
        signal: "margin" or "max-prob", whose scale is that of probabilities.
        over: "min", the weakest token of a draft, or "mean" of its tokens.
        fix: what the large model writes of a draft that it refuses: "token", in the place of the
            first token below ``keep`` that is not its likeliest, after which the small model goes
            on; or "step", all of it, where the mean over its tokens is below ``keep``.
        share: in place of all of these, the share of tokens that the large model is to write.
        cost: with ``share``, what is to be saved: "papers" (FLOPs as they count), "processed"
            (FLOPs), or "bytes", which seconds follow for answers that are written alone.
        path: the calibration that ``share`` goes by; it brings signal and ``over``.
        part: tokens of a part, or "auto" (see :class:`~steer_decode.core.drafting.Drafting`).
        accept: with ``part``, which tokens of a part that is read stay; "exact" by default.
        least: with ``part``, a part ends before a token that is less sure.
        loss: in place of all of these, how much accuracy may be lost beside the large model alone,
            as a share of prompts: parts whose bar ``path``, a promise, holds for it at 95 %
            confidence (``fitted/promise.py``). Above temperature 0 every draft is read.

    Raises:
        SteerError: another signal, a value out of its range, a share without a calibration, a share
            with thresholds, or a part with what is for steps.
    """

    name: ClassVar[str] = "both-sides"
    promise: Promise | None = None
    loss = 0.0
    shipped: ClassVar[str] = "both-sides.json"
    grades = True

    def __init__(
        self,
        sure: float | None = None,
        keep: float | None = None,
        lost: float | None = None,
        doubt: float | None = None,
        hold: float | None = None,
        signal: str | Signal | None = None,
        over: str | None = None,
        fix: str | None = None,
        share: float | None = None,
        cost: str | None = None,
        path: str | Path | BothSidesCalibration | Promise | None = None,
        part: int | Literal["auto"] | None = None,
        accept: Rule | None = None,
        least: float | None = None,
        loss: float | None = None,
    ) -> None:
        given = {"sure": sure, "keep": keep, "lost": lost, "doubt": doubt, "hold": hold}
        own = {**given, "signal": signal, "over": over, "fix": fix}
        whole: dict[str, object] = {k: v for k, v in own.items() if k not in ("sure", "signal")}
        whole |= {"share": share, "cost": cost}
        self._source = ""
        if loss is not None:
            of_parts = {"part": part, "accept": accept, "least": least}
            alone("loss", {**of_parts, "sure": sure, "signal": signal, **whole})
            self.loss = checks.fraction("loss", loss)
            self.promise, self._source = loaded_promise(path)
            self.fitted = f"sure={self.promise.sure(self.loss):g}"
            self._in_parts(promised(self.promise, self.loss))
            return
        if part is not None:
            alone("part", whole)
            self._in_parts(parts(part, accept, least, sure, signal))
            return
        for name, value in (("accept", accept), ("least", least)):
            if value is not None:
                raise SteerError(f"{name}={value} is for part, drafts that are judged in parts")
        self.sides: BothSidesCalibration | None = None
        self.share = None if share is None else checks.fraction("share", share)
        if self.share is None:
            if cost is not None:
                raise SteerError(f"cost={cost} is for share, the target share of large tokens")
            filled = {
                k: checks.threshold(k, DEFAULTS[k] if v is None else v) for k, v in given.items()
            }
            self.signal = get_signal("margin" if signal is None else signal)
            self.over = "min" if over is None else over
            self.fix = "token" if fix is None else fix
            self.cost = ""
            self.thresholds = self._checked(filled)
        else:
            named = [key for key, value in own.items() if value is not None]
            if named:
                raise SteerError(f"give either share or {named[0]}: the calibration sets it")
            self.cost = "bytes" if cost is None else cost
            self._calibrated(self.share, path)  # type: ignore[arg-type]
        self.looks_ahead = self.thresholds.lost > self._lowest

    def _in_parts(self, drafting: Drafting) -> None:
        self.signal = get_signal(drafting.signal)
        self.grades, self.sides, self.share, self.drafting = False, None, None, drafting

    def drafts(self, sampling: Sampling) -> Drafting | None:
        if self.promise is None or self.drafting is None or not sampling.temperature:
            return self.drafting
        return replace(self.drafting, sure=1.0)  # nothing is promised of what is sampled

    def _checked(self, values: dict[str, float]) -> Thresholds:
        if self.signal.name not in SCALES:
            raise SteerError(f"signal must be margin or max-prob, got {self.signal.name}")
        checks.one_of("fix", self.fix, ("token", "step"))
        checks.one_of("over", self.over, OVER)
        for name in ("sure", "lost", "doubt", "hold"):
            checks.fraction(name, values[name])
        for name in ("lost", "doubt"):
            if values[name] > values["sure"]:
                raise SteerError(
                    f"{name} must not lie above sure, got {values[name]} and {values['sure']}"
                )
        self._lowest = 0.0
        return Thresholds(**values)

    def _calibrated(self, share: float, path: str | Path | BothSidesCalibration | None) -> None:
        checks.one_of("cost", self.cost, COST_NAMES)
        if path is None:
            raise SteerError(
                "both-sides:share=... needs a calibration of the pair, path=FILE: make one with "
                "`steer calibrate --router both-sides`"
            )
        sides, self._source = checks.loaded(
            "path", path, BothSidesCalibration, BothSidesCalibration.load
        )
        self.sides = sides
        plan = sides.plans[self.cost]
        self.signal, self.over, self._lowest = get_signal(plan.signal), plan.over, plan.lowest
        self.fix = plan.fix
        self.thresholds = plan.thresholds(share)
        self.fitted = str(self.thresholds)

    def check(self, pair: TwoModels) -> None:
        for made in (self.sides, self.promise):
            if made is not None:
                made.check(pair, self._source)

    def before_step(self, start: StepStart) -> Writer:
        if self.drafting is not None and self.drafting.beyond:
            return "large"
        value = start.read(self.signal)
        if value is None:
            return "small"
        bar = self.thresholds.lost + (self.thresholds.hold if start.writer == "large" else 0.0)
        return "small" if self.signal.confidence(value) >= bar else "large"

    def confidence(self, step: Step) -> float:
        """How sure the small model is of a draft.

        From where it was mended on; higher is surer.
        """
        values = step.values[len(step.values) - step.unread :]
        return OVER[self.over]([self.signal.confidence(v) for v in values]) if values else inf

    def wants_grade(self, step: Step) -> bool:
        return self.thresholds.doubt <= self.confidence(step) < self.thresholds.sure

    def stays(self, step: Step) -> bool:
        return step.writer == "large"

    def after_step(self, step: Step) -> Writer | Redo | Mend:
        if self.drafting is not None and self.drafting.beyond:
            return "large"
        if step.writer == "large":
            # Where the next step's first token decides, this is only what ``hold`` goes by.
            return "large" if self.looks_ahead else "small"
        if self.confidence(step) < self.thresholds.doubt:
            return REDO
        if self.fix == "step":
            enough = not step.graded or fmean(step.graded) >= self.thresholds.keep
            return "small" if enough else REDO
        token = refused(step, self.thresholds.keep)
        return "small" if token is None else Mend(token, rest=len(step.others) >= PATIENCE)

    @property
    def label(self) -> str:
        parts = self.drafting is not None and self.drafting.beyond
        return str(self) if parts else super().label

    @classmethod
    def shipped_for(cls, settings: Collection[str]) -> str:
        return SHIPPED_PROMISE if "loss" in settings else cls.shipped

    def __str__(self) -> str:
        if self.promise is not None:
            return f"{self.name}:loss={self.loss:g}{path_setting(self._source)}"
        if self.drafting is not None and self.drafting.beyond:
            sure = f":sure={self.drafting.sure:g}"
            more = str(self.drafting).replace(sure, "")
            return f"{self.name}:part={self.drafting.k}{sure}{more}"
        if self.share is not None:
            path = path_setting(self._source) if self._source else ""
            return f"{self.name}:share={self.share:g}:cost={self.cost}{path}"
        t = self.thresholds
        more = "".join(f":{k}={getattr(t, k):g}" for k in ("doubt", "hold") if getattr(t, k))
        more += "" if self.fix == "token" else f":fix={self.fix}"
        more += "" if self.over == "min" else f":over={self.over}"
        more += "" if self.signal.name == "margin" else f":signal={self.signal.name}"
        return f"{self.name}:sure={t.sure:g}:keep={t.keep:g}:lost={t.lost:g}{more}"
