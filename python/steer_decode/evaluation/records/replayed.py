"""Routers scored over records, without a model.

Every router that is a function of what both models make of a text is scored on the texts for which
that is exact: lossless speculation on the large model's own, first hand-overs and cascades on the
small one's. All others are named with the reason why they need a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...errors import SteerError
from ...policies import POLICIES
from ..report.bootstrap import RESAMPLES, Bootstrap, Interval, interval, mean_share
from .record import AnswerRecord, Array, Records
from .signals import Signals, told_by_signals
from .speculation import COSTS, Speculation, acceptance, speculate

_HANDS_OVER = (
    "the writing passes to the other model inside an answer, and from there on the text, what both "
    "models make of it and its costs are others than those recorded"
)
_OTHER_TEXT = (
    "drafts stay that the large model would not have written, and the text behind them is neither "
    "model's own"
)
REASONS = {
    "random": "writers are drawn, and from the other model's first step on the text is another",
    "replay": "writers come from a list, and the text is neither model's own",
    "speculative with accept=relaxed, typical, cascade, fly or bild": _OTHER_TEXT,
    "speculative with least=P": "how long a draft is depends on what the small model draws behind "
    "a draft that falls, which is not recorded",
    "bild": _OTHER_TEXT,
    "foreal": _HANDS_OVER,
    "prompt-lookup": "drafts come from the prompt, whose tokens are not recorded",
    "draft=K of any router": "the text of that router is needed; on the large model's own text it "
    "is speculative:k=K",
}
"""Why routers are not replayed, where it is not that they hand over inside an answer."""
EXACT = ("small", "large", "speculative", "corea")


@dataclass(frozen=True)
class Drafts:
    """Lossless speculation.

    Attributes:
        k: drafts of a pass, or "auto".
        tokens_per_pass: of the large model, with its interval over problems.
        accepted: share of the drafts at each position of a pass that stayed, of those looked at.
        costs: beside the large model alone, by name; empty where the models' sizes are not known.
    """

    k: int | str
    tokens_per_pass: Interval
    accepted: Sequence[float]
    costs: Mapping[str, Interval]


@dataclass(frozen=True)
class Replayed:
    """What records say without a run.

    Attributes:
        records: what was read.
        agreement: share of the tokens of the large model's own texts at which the small model's
            likeliest token stands; None without such a text.
        run: mean length of the runs of such tokens.
        own: share at which the large model's own likeliest token stands.
        overlap: mean of min(1, q / p) over these tokens.
        drafts: lossless speculation, by k.
        signals: what tells right from wrong on the small model's own texts; None without any.
        absent: why something is missing, in sentences.
    """

    records: Records
    agreement: Interval | None
    run: float
    own: float
    overlap: float
    drafts: Sequence[Drafts]
    signals: Signals | None
    absent: Sequence[str]


def replay_records(records: Records, resamples: int = RESAMPLES) -> Replayed:
    """Score what can be scored exactly.

    Args:
        records: of one pair.
        resamples: of the bootstrap over problems.

    Raises:
        SteerError: no text that one of the models wrote alone.
    """
    large, small = records.by("large"), records.by("small")
    if not large and not small:
        raise SteerError(
            "these records hold no text that the small or the large model wrote alone, and only on "
            "such texts is a replay exact: add them with `steer eval --routers small,large` and "
            "the same --record"
        )
    absent = [f"No text that the {w} model wrote alone." for w in _missing(small, large)]
    speculated: list[Speculation] = []
    try:
        speculated = speculate(records.header, large) if large else []
    except SteerError as error:
        absent.append(f"{str(error)[0].upper()}{str(error)[1:]}.")
    boot = _Problems(large, resamples)
    agrees = [a.views["small"].likeliest == a.ids for a in large]
    overlaps = [acceptance(records.header, a) for a in large] if speculated else []
    greedy = records.header.sampling.temperature == 0
    verdicts = {
        (a.domain, a.problem, a.seed): bool(a.correct) for a in large if a.correct is not None
    }
    signals = told_by_signals(small, verdicts if greedy else None, resamples) if small else None
    if signals is not None:
        absent += [f"{text[0].upper()}{text[1:]}." for text in signals.absent]
    return Replayed(
        records=records,
        agreement=boot.share([x.sum() for x in agrees], [len(x) for x in agrees])
        if large
        else None,
        run=_mean_run(agrees),
        own=_mean([a.views["large"].likeliest == a.ids for a in large]),
        overlap=_mean(overlaps),
        drafts=[_drafts(boot, one) for one in speculated],
        signals=signals,
        absent=absent,
    )


def _missing(small: Sequence[AnswerRecord], large: Sequence[AnswerRecord]) -> list[str]:
    return [name for name, texts in (("small", small), ("large", large)) if not texts]


def _mean(parts: Sequence[Array]) -> float:
    return float(np.concatenate(parts).mean()) if parts else float("nan")


def _mean_run(agrees: Sequence[Array]) -> float:
    """Tokens that agree, over the runs of such tokens."""
    runs = sum(int((x & ~np.r_[False, x[:-1]]).sum()) for x in agrees)
    return sum(int(x.sum()) for x in agrees) / runs if runs else 0.0


class _Problems:
    """Ratios of sums over texts, resampled by problem."""

    def __init__(self, answers: Sequence[AnswerRecord], resamples: int) -> None:
        names = [(a.domain, a.problem) for a in answers]
        problems = list(dict.fromkeys(names))
        place = {name: i for i, name in enumerate(problems)}
        self._at = [place[name] for name in names]
        self._size = len(problems)
        self._boot = Bootstrap([domain for domain, _ in problems], resamples)

    def _samples(self, above: ArrayLike, below: ArrayLike) -> Array:
        sums = [np.bincount(self._at, x, self._size).astype(np.float64) for x in (above, below)]
        return self._boot.ratio(*sums)

    def ratio(self, above: ArrayLike, below: ArrayLike) -> Interval:
        return interval(self._samples(above, below))

    def share(self, above: ArrayLike, below: ArrayLike) -> Interval:
        return mean_share(self._samples(above, below), self._size)


def _drafts(boot: _Problems, one: Speculation) -> Drafts:
    costs = {}
    if one.costs is not None and one.alone is not None:
        for i, name in enumerate(COSTS):
            costs[name] = boot.ratio(one.costs[:, i], one.alone[:, i])
    none = np.full(len(one.examined), np.nan)
    shares = np.divide(one.accepted, one.examined, out=none, where=one.examined > 0)
    return Drafts(one.k, boot.ratio(one.tokens, one.passes), shares.tolist(), costs)


def refused() -> dict[str, str]:
    """Every router that is not replayed, with the reason."""
    others = {name: _HANDS_OVER for name in POLICIES if name not in EXACT}
    return {**others, **REASONS}


def counted(records: Records) -> dict[str, tuple[int, int]]:
    """Answers and tokens of each router."""
    answers = Counter(a.router for a in records.answers)
    tokens: Counter[str] = Counter()
    for answer in records.answers:
        tokens[answer.router] += len(answer)
    return {name: (n, tokens[name]) for name, n in answers.items()}


def to_dict(found: Replayed) -> dict[str, Any]:
    """The replay as plain data.

    Intervals are [value, low, high]; what is not finite becomes null where it is written.
    """
    header = found.records.header
    signals = found.signals
    return {
        "pair": header.pair,
        "models": dict(header.names),
        "source": header.source,
        "routers": {n: {"answers": a, "tokens": t} for n, (a, t) in counted(found.records).items()},
        "agreement": list(found.agreement) if found.agreement else None,
        "mean_run": found.run,
        "own_likeliest": found.own,
        "overlap": found.overlap,
        "speculation": [
            {
                "k": one.k,
                "tokens_per_pass": list(one.tokens_per_pass),
                "accepted_by_position": list(one.accepted),
                "beside_large_alone": {name: list(x) for name, x in one.costs.items()},
            }
            for one in found.drafts
        ],
        "answers": [_told(one) for one in signals.answers] if signals else [],
        "steps": [_told(one) for one in signals.steps] if signals else [],
        "absent": list(found.absent),
        "not_replayed": refused(),
    }


def _told(one: Any) -> dict[str, Any]:
    return {
        "name": one.name,
        "what": one.what,
        "auroc": list(one.auroc),
        "right": one.right,
        "wrong": one.wrong,
        "right_of_surer_half": one.surest[0],
        "right_of_the_rest": one.surest[1],
        "right_with_half_sent": list(one.half_sent) if one.half_sent else None,
        "thresholds": [each._asdict() for each in one.thresholds],
    }
