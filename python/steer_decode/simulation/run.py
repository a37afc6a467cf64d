"""A simulated run, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..core.transcript import WRITERS, Writer
from .arrivals import Load
from .fleet import Fleet, FleetPlan, Log
from .script import Script
from .tariff import Tariff

PERCENTILES = (50, 90, 95, 99)
CARRIED = 0.95  # of what comes has to end meanwhile, or the queue grows
WARM = 0.4  # of the answers come before what is measured, since an engine takes time to fill


@dataclass(frozen=True)
class Simulated:
    """What a simulated run gave.

    Rates, latencies and utilisation are those of a window: from the answer that is asked for after
    two fifths of all, to the last one. Counts and costs are of all answers.

    Attributes:
        answers, tokens, hand_overs: of all.
        seconds: of the whole run.
        offered: answers a second that came; None where they come as others end.
        answers_per_second, tokens_per_second: that ended.
        mean, latency, first: seconds of an answer, at the mean and at :data:`PERCENTILES`; of its
            first token that stays, likewise at these.
        inside: answers in the making, at the mean.
        calls, read, processed, written: by model; ``read`` are tokens before calls' first passes.
        utilisation: of the engines of each model, the part of the time in which a pass ran.
        rows: of a pass, at the mean, by model.
        evicted: tokens that caches let go of conversations that went on.
        costs: of one answer: FLOPs of the papers, FLOPs processed, bytes read, and seconds of
            machines that ran passes. None where the models' sizes are not known.
        machines: of the fleet.
    """

    answers: int
    tokens: int
    hand_overs: int
    seconds: float
    offered: float | None
    answers_per_second: float
    tokens_per_second: float
    mean: float
    latency: dict[int, float]
    first: dict[int, float]
    inside: float
    calls: dict[Writer, int]
    read: dict[Writer, int]
    processed: dict[Writer, int]
    written: dict[Writer, int]
    utilisation: dict[Writer, float]
    rows: dict[Writer, float]
    evicted: dict[Writer, int]
    costs: dict[str, float | None]
    machines: int

    @property
    def carried(self) -> bool:
        """Whether about as many answers end as come."""
        return self.offered is None or self.answers_per_second >= CARRIED * self.offered

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "carried": self.carried}


def simulate(
    scripts: Sequence[Script],
    plan: FleetPlan,
    arrivals: Load,
    answers: int,
    tariffs: Mapping[Writer, Tariff] | None = None,
    *,
    told: Callable[[], object] = lambda: None,
    warm: float = WARM,
    shuffled: bool = True,
) -> Simulated:
    """Simulate a fleet under load.

    Args:
        scripts: of recorded answers, at least one.
        plan: of the fleet.
        arrivals: when answers are asked for.
        answers: how many.
        tariffs: what passes cost, by model; nothing by default.
        told: is called whenever an answer has ended.
        warm: part of the answers that come before what is measured; 0 measures the whole run.
        shuffled: whether the order of the scripts is drawn.
    """
    known = tariffs or {writer: Tariff() for writer in WRITERS}
    fleet = Fleet(scripts, plan, known, told, shuffled)
    first = int(answers * warm)
    return _measured(fleet.run(arrivals, answers, first), plan, first, arrivals.open)


def _measured(log: Log, plan: FleetPlan, warm: int, is_open: bool) -> Simulated:
    begin, end, busy = _window(log)
    window = end - begin
    ended = [a for a in log.answers if begin < a.end <= end]
    counted = log.answers[warm:]
    spent, n = log.spent, len(log.answers)
    seconds = sum(
        replica.busy * plan.pools[w].machines for w, rs in log.replicas.items() for replica in rs
    )
    passes = {w: sum(r.passes for r in rs) for w, rs in log.replicas.items()}
    rows = {w: sum(r.rows_run for r in rs) for w, rs in log.replicas.items()}
    times = [a.end - a.begin for a in counted]
    return Simulated(
        answers=n,
        tokens=sum(a.tokens for a in log.answers),
        hand_overs=sum(a.hand_overs for a in log.answers),
        seconds=log.seconds,
        offered=sum(begin < a.begin <= end for a in log.answers) / window if is_open else None,
        answers_per_second=len(ended) / window,
        tokens_per_second=sum(a.tokens for a in ended) / window,
        mean=sum(times) / len(times),
        latency=percentiles(times),
        first=percentiles([a.first - a.begin for a in counted if a.first]),
        inside=log.waiting / log.seconds,
        calls={w: spent[w].calls for w in WRITERS},
        read={w: spent[w].read for w in WRITERS},
        processed={w: spent[w].processed for w in WRITERS},
        written={w: spent[w].written for w in WRITERS},
        utilisation={w: sum(busy[w]) / window / max(1, len(busy[w])) for w in WRITERS},
        rows={w: rows[w] / passes[w] if passes[w] else 0.0 for w in WRITERS},
        evicted={w: sum(r.cache.evicted for r in rs) for w, rs in log.replicas.items()},
        costs={**_costs(log, n), "seconds": seconds / n},
        machines=plan.machines,
    )


def _costs(log: Log, answers: int) -> dict[str, float | None]:
    """Three of the four costs of an answer."""
    known = all(spent.known for spent in log.spent.values())
    return {
        name: sum(getattr(log.spent[w], name) for w in WRITERS) / answers if known else None
        for name in ("flops_paper", "flops_processed", "bytes_read")
    }


def _window(log: Log) -> tuple[float, float, dict[Writer, list[float]]]:
    """Begin and end of what is measured, and the seconds of passes of each engine in it."""
    whole = {w: [r.busy for r in rs] for w, rs in log.replicas.items()}
    if len(log.marks) < 2 or log.marks[1] <= log.marks[0]:
        return 0.0, log.seconds, whole
    first, last = log.busy
    within = {w: [b - a for a, b in zip(first[w], last[w], strict=True)] for w in log.replicas}
    return log.marks[0], log.marks[1], within


def percentiles(values: Sequence[float]) -> dict[int, float]:
    """At :data:`PERCENTILES` in a hundred; NaN of nothing."""
    ordered = sorted(values) or [float("nan")]
    last = len(ordered) - 1
    return {p: ordered[min(last, len(ordered) * p // 100)] for p in PERCENTILES}
