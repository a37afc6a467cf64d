"""What is to be simulated, checked before work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from ..core.transcript import WRITERS, Writer
from ..errors import SteerError
from ..util import documents
from . import passes
from .calls import GATES, Gate
from .fleet import PLACINGS, FleetPlan, Placing, PoolPlan
from .passes import PassTime, Timed
from .source import Answers

CALL_MS = "5:1"
ROWS, BUDGET, BLOCK = 256, 8192, 16
MOST_REPLICAS, MOST_ROWS, MOST_TOKENS = 10_000, 100_000, 2**40


@dataclass(frozen=True)
class Wanted:
    """Options as they were given; texts are read by :meth:`plan`.

    Attributes:
        times: of passes, by model, in the form of :func:`~.passes.parse`; None where not given.
        timed: a file of timed passes.
        replicas, machines, rows, budget, cache: one number, or one for each model.
        gate, placing: as of :class:`~.fleet.FleetPlan`; a gate of None is chosen by the traces.
        call_ms: ``MS`` or ``MS:FRONT``; None for :data:`CALL_MS`.
        block: tokens of a block.
        in_process: both models in one process, by this package's loop.
        seed: of all that is drawn.
    """

    times: Mapping[Writer, str | None]
    timed: Path | None = None
    replicas: str = "1,1"
    machines: str = "1,1"
    rows: str = str(ROWS)
    budget: str = str(BUDGET)
    cache: str | None = None
    gate: str | None = None
    placing: str = "session"
    call_ms: str | None = None
    block: int = BLOCK
    in_process: bool = False
    seed: int = 0

    def check(self) -> None:
        """Check what needs no traces.

        Raises:
            SteerError: an option is none that there is.
        """
        if self.gate is not None and self.gate not in GATES:
            raise SteerError(f"--gate must be one of {', '.join(GATES)}, got {self.gate!r}")
        if self.placing not in PLACINGS:
            raise SteerError(
                f"--placing must be one of {', '.join(PLACINGS)}, got {self.placing!r}"
            )
        self._call()
        if not 1 <= self.block <= 65_536:
            raise SteerError(f"--block must lie in 1..65536, got {self.block}")
        self._numbers()
        if self.timed is not None and any(self.times.values()):
            raise SteerError("give either --passes or --small-ms and --large-ms, not both")
        if self.timed is None and self.times["small"] is None:
            raise SteerError(
                "--small-ms is missing: how many ms a token takes the small model, as in "
                "--small-ms 4.6, or --passes with a file of `steer bench passes`"
            )
        for writer in WRITERS:
            if (text := self.times[writer]) is not None:
                passes.parse(f"--{writer}-ms", text)
        if self.in_process:
            self._check_in_process()

    def _check_in_process(self) -> None:
        for name, given in (("--gate", self.gate), ("--call-ms", self.call_ms)):
            if given is not None:
                raise SteerError(f"{name} is for servers, and --in-process has none: give either")
        if both(self.replicas, "--replicas", 1, MOST_REPLICAS) != {"small": 1, "large": 1}:
            raise SteerError(
                f"--in-process has one engine of each model on one device, got --replicas "
                f"{self.replicas}: leave it out"
            )

    def _numbers(self) -> dict[str, dict[Writer, int]]:
        found = {
            "replicas": both(self.replicas, "--replicas", 1, MOST_REPLICAS),
            "machines": both(self.machines, "--machines", 1, MOST_REPLICAS),
            "rows": both(self.rows, "--rows", 1, MOST_ROWS),
            "budget": both(self.budget, "--batch-tokens", 1, MOST_TOKENS),
        }
        for writer in WRITERS:
            if found["budget"][writer] < found["rows"][writer]:
                raise SteerError(
                    f"--batch-tokens must be at least --rows, got {found['budget'][writer]} and "
                    f"{found['rows'][writer]}: each row writes a token a pass"
                )
        if self.cache is not None:
            found["cache"] = both(self.cache, "--cache", 1, MOST_TOKENS)
        return found

    def plan(self, answers: Answers) -> FleetPlan:
        """The fleet for these answers.

        Raises:
            SteerError: as :meth:`check`; or the answers need another gate or a larger cache, or
                --large-ms cannot be told from the models' sizes.
        """
        self.check()
        numbers, times = self._numbers(), self._times(answers)
        gate, block = self._gate(answers), 1 if self.in_process else self.block
        most = max(answers.scripts + answers.alone, key=lambda script: script.longest)
        for writer, tokens in numbers.get("cache", {}).items():
            if tokens // block * block < most.longest:
                raise SteerError(
                    f"--cache {tokens} of the {writer} model is too small: {most.name} has a "
                    f"prompt of {most.prompt} tokens and is {most.longest} long, in blocks of "
                    f"{block}; give --cache more, or leave that answer out"
                )
        pools = {
            w: PoolPlan(
                times[w],
                numbers["replicas"][w],
                numbers["rows"][w],
                numbers["budget"][w],
                block,
                numbers["cache"][w] if "cache" in numbers else None,
                numbers["machines"][w],
            )
            for w in WRITERS
        }
        call, front = (0.0, 0.0) if self.in_process else self._call()
        placing: Placing = self.placing  # type: ignore[assignment]
        return FleetPlan(pools, gate, placing, call, front, self.in_process, self.seed)

    def _call(self) -> tuple[float, float]:
        """Milliseconds of a call, and of its front."""
        text = CALL_MS if self.call_ms is None else self.call_ms
        try:
            given = [float(part) for part in text.split(":")]
        except ValueError:
            given = []
        front = given[1] if len(given) == 2 else 0.0
        if len(given) not in (1, 2) or not 0 <= front <= given[0] < passes.LONGEST:
            raise SteerError(
                "--call-ms must be MS or MS:FRONT, ms of a call beside the passes, and of these "
                f"what each engine's server spends on one call after another, as in {CALL_MS}, "
                f"got {text!r}"
            )
        return given[0], front

    def _gate(self, answers: Answers) -> Gate:
        if self.in_process:
            return "loop"
        if any(script.grades for script in answers.scripts):
            raise SteerError(
                f"{answers.router} has the large model grade drafts, which servers cannot do from "
                "their prefix caches: add --in-process, or simulate another router"
            )
        looking = next((script for script in answers.scripts if script.looks), None)
        if self.gate == "none" and looking is not None:
            raise SteerError(
                f"{answers.router} looks before a step, which two servers without the gate cannot "
                "tell: give --gate small or --gate both"
            )
        return self.gate or ("small" if looking else "none")  # type: ignore[return-value]

    def _times(self, answers: Answers) -> dict[Writer, PassTime]:
        if self.timed is not None:
            return read_times(self.timed)
        small = passes.parse("--small-ms", str(self.times["small"]))
        given = self.times["large"]
        if given is not None:
            return {"small": small, "large": passes.parse("--large-ms", given)}
        if len(answers.parameters) < len(WRITERS):
            raise SteerError(
                "--large-ms is missing, and these answers do not tell how large the models are: "
                "give it, as in --large-ms 21"
            )
        ratio = answers.parameters["large"] / answers.parameters["small"]
        return {
            "small": small,
            "large": PassTime(*(ratio * each for each in astuple(small))),
        }

    def assumed(self, plan: FleetPlan, answers: Answers) -> list[str]:
        """What was given or is assumed, a sentence each."""
        told = []
        for writer in WRITERS:
            time = plan.pools[writer].time
            told.append(f"a pass of the {writer} model takes {time}{self._source(writer)}")
        if plan.one_device:
            return [*told, "both models take turns on one device, as Router.cohort has them"]
        pool = plan.pools["small"]
        gate = {
            "none": "no gate: a call a step",
            "small": "the gate in the small engines: a call goes on while the small model is sure",
            "both": "the gate in both: a call goes on while its model keeps the pen",
            "loop": "",
        }[plan.gate]
        room = "that hold everything" if pool.cache is None else f"of {self.cache} tokens"
        where = {
            "session": "a conversation keeps its engines, drawn at random",
            "least": "a conversation keeps its engines, those with the fewest calls at first",
            "round": "calls go to engines in turn, whatever these have read",
        }[plan.placing]
        alone = "recorded" if answers.alone else "as many tokens as the routed ones"
        return [
            *told,
            f"{gate}; {plan.call_ms:g} ms a call beside the passes, {plan.front_ms:g} of them one "
            "call after another at each engine",
            f"prefix caches {room}, in blocks of {pool.block}; {where}",
            f"answers of the large model alone: {alone}",
        ]

    def _source(self, writer: Writer) -> str:
        if self.timed is not None:
            return " (fitted)"
        text = self.times[writer]
        if text is None:
            return " (assumed: in proportion to the parameters)"
        if text.count(":") < 2:
            rest = "tokens" if ":" in text else "rows and tokens"
            return f" ({rest} assumed: 1/{1 / passes.SHARE:.0f} of the first)"
        return ""


def both(text: str, name: str, least: int, most: int) -> dict[Writer, int]:
    """Read one whole number for both models, or ``SMALL,LARGE``.

    Raises:
        SteerError: it is none of these, or out of bounds.
    """
    parts = text.split(",")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(least <= n <= most for n in numbers):
        raise SteerError(
            f"{name} must be SMALL,LARGE or one number for both, each from {least} to {most:,}, "
            f"as in 2,1, got {text!r}"
        )
    return {"small": numbers[0], "large": numbers[-1]}


_TIMED = documents.record(
    {
        "rows": documents.whole(1),
        "tokens": documents.whole(1),
        "ms": documents.number(0, passes.LONGEST),
    }
)
_FILE = documents.record(dict.fromkeys(WRITERS, documents.listed(_TIMED, 1)), others="dropped")


def read_times(file: Path) -> dict[Writer, PassTime]:
    """Fit the times of passes that a file holds.

    Raises:
        SteerError: it cannot be read, is no such file, or no line goes through its passes.
    """
    way = "make one with `steer bench passes --json FILE`"
    found = documents.read(
        file, "timed passes", documents.versioned(1, _FILE, "passes"), "is not timed passes", way
    )
    return {w: passes.fit([Timed(**each) for each in found[w]]) for w in WRITERS}
