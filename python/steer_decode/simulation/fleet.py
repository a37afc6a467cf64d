"""Two pools of engines, and conversations between them."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import simpy

from ..core.transcript import WRITERS, Writer
from .arrivals import Load
from .blocks import BlockCache, CacheEntry
from .calls import EngineCall, Gate, calls_of
from .passes import PassTime
from .replica import Replica
from .script import Script
from .tariff import Spent, Tariff

Placing = Literal["session", "least", "round"]
PLACINGS = ("session", "least", "round")


@dataclass(frozen=True)
class PoolPlan:
    """The engines of one model.

    Attributes:
        time: of a pass.
        replicas: engines; 0 where nobody asks the model.
        rows: most calls that run together in one.
        budget: most tokens of a pass.
        block: tokens of a block of its prefix cache.
        cache: tokens that fit into it; None for any number.
        machines: that one engine takes.
    """

    time: PassTime
    replicas: int = 1
    rows: int = 256
    budget: int = 8192
    block: int = 16
    cache: int | None = None
    machines: int = 1


@dataclass(frozen=True)
class FleetPlan:
    """Both pools, and how they are asked.

    Attributes:
        pools: by model.
        gate: which engines judge steps themselves.
        placing: which engine a call goes to: by "session" that of its conversation, drawn once as
            consistent hashing draws it; "least" that of its conversation, at first the one with
            the fewest calls; "round" the next one, whatever it has read.
        call_ms: of a call beside the engine's passes.
        front_ms: of these, what one process of each engine spends, on one call after another: the
            server that takes calls in and hands tokens out. On one device it takes that.
        one_device: both engines take turns on one device, as both models of a process do.
        seed: of arrivals, placing and the order of the traces.
    """

    pools: Mapping[Writer, PoolPlan]
    gate: Gate = "none"
    placing: Placing = "session"
    call_ms: float = 0.0
    front_ms: float = 0.0
    one_device: bool = False
    seed: int = 0

    @property
    def machines(self) -> int:
        """That the engines take."""
        each = [pool.replicas * pool.machines for pool in self.pools.values()]
        return max(each) if self.one_device else sum(each)


@dataclass
class Answered:
    """What became of one answer.

    Times are seconds from the start of the simulation.
    """

    begin: float
    tokens: int
    hand_overs: int
    calls: int
    first: float = 0.0
    end: float = 0.0


@dataclass
class Log:
    """What a run leaves.

    Attributes:
        answers: in the order in which they were asked for.
        seconds: of the run.
        waiting: answers in the making, integrated over time.
        busy: seconds of passes of each engine at the marks, by model.
        marks: the times of the window that is measured.
        spent: by model.
        replicas: by model.
    """

    answers: list[Answered] = field(default_factory=list)
    seconds: float = 0.0
    waiting: float = 0.0
    marks: list[float] = field(default_factory=list)
    busy: list[dict[Writer, list[float]]] = field(default_factory=list)
    spent: dict[Writer, Spent] = field(default_factory=dict)
    replicas: dict[Writer, list[Replica]] = field(default_factory=dict)


class Fleet:
    """Run conversations over a fleet.

    Args:
        scripts: of recorded answers; each is asked for in turn, in an order of its own each time.
        plan: of the fleet.
        tariffs: what passes cost, by model.
        told: is called whenever an answer has ended.
        shuffled: whether the order is drawn; else it is that of ``scripts``.
    """

    def __init__(
        self,
        scripts: Sequence[Script],
        plan: FleetPlan,
        tariffs: Mapping[Writer, Tariff],
        told: Callable[[], object] = lambda: None,
        shuffled: bool = True,
    ) -> None:
        self._plan, self._told = plan, told
        self._work = [(script, calls_of(script, plan.gate)) for script in scripts]
        self._shuffled = shuffled
        self._env = simpy.Environment()
        self.log = Log(spent={w: Spent(tariffs[w]) for w in WRITERS})
        device = simpy.Resource(self._env) if plan.one_device else None
        for writer in WRITERS:
            pool, spent = plan.pools[writer], self.log.spent[writer]
            self.log.replicas[writer] = [
                Replica(
                    self._env,
                    pool.time,
                    pool.rows,
                    pool.budget,
                    BlockCache(pool.block, pool.cache),
                    device,
                    spent.passed,
                )
                for _ in range(pool.replicas)
            ]
        self._fronts = {
            w: [device or simpy.Resource(self._env) for _ in rs]
            for w, rs in self.log.replicas.items()
        }
        self._turn = dict.fromkeys(WRITERS, 0)
        self._inside, self._since = 0, 0.0

    def run(self, arrivals: Load, answers: int, warm: int = 0) -> Log:
        """Run until all answers have ended.

        Args:
            arrivals: when they are asked for.
            answers: how many.
            warm: the first so many come before the window that is measured, which ends as the last
                one is asked for. 0 measures all there is.
        """
        work = self._order()
        self._marked = {warm, answers - 1} if warm else set()
        if arrivals.open:
            self._env.process(self._arrive(arrivals, answers, work))
        else:
            left = iter(range(answers))
            for _ in range(min(int(arrivals.value), answers)):
                self._env.process(self._again(left, work))
        self._env.run()
        self.log.seconds = max(told.end for told in self.log.answers)
        return self.log

    def _order(self) -> Iterator[tuple[Script, tuple[EngineCall, ...]]]:
        chance = random.Random(f"{self._plan.seed}:order")
        while True:
            some = list(self._work)
            if self._shuffled:
                chance.shuffle(some)
            yield from some

    def _arrive(self, arrivals: Load, answers: int, work: Iterator[Any]) -> Any:
        for _, gap in zip(range(answers), arrivals.gaps(self._plan.seed), strict=False):
            yield self._env.timeout(gap)
            self._env.process(self._converse(*next(work)))

    def _again(self, left: Iterator[int], work: Iterator[Any]) -> Any:
        for _ in left:
            yield from self._converse(*next(work))

    def _converse(self, script: Script, calls: Sequence[EngineCall]) -> Generator[Any, Any, None]:
        """One answer: its calls, one after another."""
        number, now = len(self.log.answers), self._env.now
        if number in self._marked:
            self._mark()
        told = Answered(now, script.tokens, script.hand_overs, len(calls))
        self.log.answers.append(told)
        self._enter(1)
        chance = random.Random(f"{self._plan.seed}:{number}")
        drawn = {writer: chance.random() for writer in WRITERS}
        homes: dict[Writer, int] = {}
        held: dict[tuple[Writer, int], CacheEntry] = {}
        for call in calls:
            if call.cut is not None:
                for (writer, at), entry in held.items():
                    self.log.replicas[writer][at].cache.cut(entry, call.cut)
            at = self._place(call.model, homes, drawn[call.model])
            entry = held.setdefault((call.model, at), CacheEntry())
            yield from self._travel(call.model, at)
            asked = self.log.replicas[call.model][at].submit(call, entry)
            yield asked.done
            self.log.spent[call.model].called(call, asked.read)
            if call.kept and not told.first:
                told.first = asked.first
        for entry in held.values():
            entry.over = True
        told.end = self._env.now
        self._enter(-1)
        self._told()

    def _travel(self, model: Writer, at: int) -> Generator[Any, Any, None]:
        """The way of a call to an engine, and through its front."""
        plan = self._plan
        if plan.call_ms > plan.front_ms:
            yield self._env.timeout(1e-3 * (plan.call_ms - plan.front_ms))
        if plan.front_ms:
            with self._fronts[model][at].request() as turn:
                yield turn
                yield self._env.timeout(1e-3 * plan.front_ms)

    def _place(self, model: Writer, homes: dict[Writer, int], drawn: float) -> int:
        pool = self.log.replicas[model]
        if self._plan.placing == "round":
            self._turn[model] += 1
            return self._turn[model] % len(pool)
        if model not in homes:
            if self._plan.placing == "least":
                homes[model] = min(range(len(pool)), key=lambda at: pool[at].load)
            else:
                homes[model] = int(drawn * len(pool))
        return homes[model]

    def _enter(self, more: int) -> None:
        now = self._env.now
        self.log.waiting += self._inside * (now - self._since)
        self._inside, self._since = self._inside + more, now

    def _mark(self) -> None:
        now = self._env.now
        self.log.marks.append(now)
        self.log.busy.append(
            {w: [r.busy_until(now) for r in rs] for w, rs in self.log.replicas.items()}
        )
