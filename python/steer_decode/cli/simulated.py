"""What ``steer simulate`` does, once its options are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SteerError
from . import say
from .models import Models, quiet

if TYPE_CHECKING:
    from ..core.transcript import Writer
    from ..simulation.arrivals import Load
    from ..simulation.compare import Comparison, Contender
    from ..simulation.run import Simulated
    from ..simulation.setup import Wanted
    from ..simulation.size import Target
    from ..simulation.source import Answers
    from ..simulation.tariff import Tariff

_DEMO = {"small": "demo small", "large": "demo large"}


def read_answers(traces: list[Path], router: str | None, stretch: float) -> Answers:
    """Read recorded answers, and say how far it is.

    Raises:
        SteerError: as ``simulation.source.read``.
    """
    from ..simulation.source import read
    from .view.terminal import lines

    with lines("reading answers") as told:
        return read(traces, router, stretch, told.at)


def tariffs_of(models: Models, answers: Answers) -> dict[Writer, Tariff]:
    """What passes of both models cost.

    By the sizes of those that were named, or are the demo's; else by their parameters.

    Raises:
        SteerError: a model that is not there, or whose sizes cannot be told.
    """
    from ..core.transcript import WRITERS
    from ..simulation.tariff import Tariff

    if models.demo and models.pair is None and answers.models != _DEMO:
        return {w: Tariff(answers.parameters.get(w)) for w in WRITERS}
    from ..preflight import read_side

    quiet()
    sources: Any = models.sources()
    found: dict[Writer, Tariff] = {}
    for writer, source in zip(WRITERS, sources[:2], strict=True):
        side = read_side(writer, source, "auto", **sources[2])
        if side.shape is None:
            raise SteerError(f"--{writer} {source!r} {side.problems[0]}: name another model")
        found[writer] = Tariff.of(side.shape)
    return found


@dataclass
class Simulation:
    """All that a run needs.

    ``number`` is of answers, or None for as many as are enough.
    """

    answers: Answers
    wanted: Wanted
    arrivals: Load
    tariffs: dict[Writer, Tariff]
    number: int | None
    warm: float
    in_order: bool

    def go(self, quick: bool, out: Path | None, as_json: bool) -> None:
        """Simulate, and say what came of it."""
        from ..simulation.compare import RUNS, compare

        both = self._both()
        routed, recorded = both["routed"], both["alone"].scripts
        found = self._at_this_load(both)
        comparison = None
        if not quick:
            from .view.terminal import Bar

            with Bar("loads", RUNS) as bar:
                comparison = compare(routed, recorded, self.tariffs, self.number, bar.advance)
        if out is not None and comparison is not None:
            from ..simulation.draw import draw

            draw(comparison, out)
        if as_json:
            self._print_json(both, found, comparison)
        else:
            self._print(both, found, comparison)
        if out is not None:
            say.note(f"the picture is in {out}")

    def find(self, target: Target, as_json: bool) -> None:
        """Find fleets that carry a load, and show them."""
        from ..simulation.arrivals import Load
        from ..simulation.size import size
        from .view.terminal import Bar

        both = self._both()
        with Bar("fleets that were tried") as bar:
            both = {name: size(one, target, bar.advance) for name, one in both.items()}
        self.arrivals = Load("poisson", target.rate)
        self.number = target.answers
        found = self._at_this_load(both)
        if as_json:
            self._print_json(both, found, None)
        else:
            self._print(both, found, None)

    def _both(self) -> dict[str, Contender]:
        from ..simulation.compare import Contender, large_alone
        from ..simulation.script import alone

        scripts = self.answers.scripts
        recorded = [alone(script, "large") for script in self.answers.alone or scripts]
        routed = Contender(scripts, self.wanted.plan(self.answers))
        return {"routed": routed, "alone": large_alone(routed, recorded)}

    def _at_this_load(self, both: dict[str, Contender]) -> dict[str, Simulated]:
        from ..simulation.compare import enough
        from ..simulation.run import simulate as run
        from .view.terminal import Bar

        counts = {name: self.number or enough(one, self.arrivals) for name, one in both.items()}
        found = {}
        with Bar("answers", sum(counts.values())) as bar:
            for name, one in both.items():
                found[name] = run(
                    one.scripts,
                    one.plan,
                    self.arrivals,
                    counts[name],
                    self.tariffs,
                    told=bar.advance,
                    warm=self.warm,
                    shuffled=not self.in_order,
                )
        return found

    def _print(
        self,
        both: dict[str, Contender],
        found: dict[str, Simulated],
        comparison: Comparison | None,
    ) -> None:
        from ..simulation import report

        say.out(report.about(self.answers))
        for sentence in self.wanted.assumed(both["routed"].plan, self.answers):
            say.out(f"  {sentence}")
        say.out()
        for line in report.table(both, found):
            say.out(line)
        say.out()
        for line in report.warnings(found):
            say.out(line)
        for line in report.verdict(comparison) if comparison else ():
            say.out(line)

    def _print_json(
        self,
        both: dict[str, Contender],
        found: dict[str, Simulated],
        comparison: Comparison | None,
    ) -> None:
        from ..util.text import dump

        told = {
            "router": self.answers.router,
            "answers": len(self.answers.scripts),
            "unfinished": self.answers.unfinished,
            "assumed": self.wanted.assumed(both["routed"].plan, self.answers),
            "engines": {
                name: {w: pool.replicas for w, pool in one.plan.pools.items()}
                for name, one in both.items()
            },
            **{name: one.to_dict() for name, one in found.items()},
            "comparison": comparison and comparison.to_dict(),
        }
        say.out(dump(told, indent=1))
