"""Results of one or several evaluations, in one table.

Whether they may stand in one is checked first.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SteerError
from ..results import first_difference, read_problems, read_results
from ..rows import Asked, Key, ResultRow

Name = tuple[str, str]
"""Domain and problem."""

_RUNTIME = ("device", "dtype", "threads", "workers")
_SUMS = ("flops_paper", "flops_processed", "bytes_read", "seconds", "hand_overs")
_COUNTS = ("correct", "tokens", "large_tokens", "steps", "large_steps", "discarded_tokens")


@dataclasses.dataclass(frozen=True)
class Results:
    """Answers that can be compared.

    Every router answered every one of the problems.

    Attributes:
        rows: answers by router, each list in the order of the problems.
        names: the problems.
        left_out: how many problems were left out because a router has no answer to them.
        problems: what was asked, where the folders tell.
        settings: what the answers were made with.
    """

    rows: Mapping[str, Sequence[ResultRow]]
    names: Sequence[Name]
    left_out: int
    problems: Mapping[Name, Asked]
    settings: Mapping[str, Any]

    @property
    def routers(self) -> list[str]:
        return list(self.rows)

    @cached_property
    def domains(self) -> list[str]:
        return list(dict.fromkeys(domain for domain, _ in self.names))

    @cached_property
    def place(self) -> dict[Name, int]:
        """Position of each problem."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({row.seed for rows in self.rows.values() for row in rows})

    @cached_property
    def failed(self) -> list[ResultRow]:
        """Answers whose checker raised."""
        return [row for rows in self.rows.values() for row in rows if row.error]

    @cached_property
    def tables(self) -> dict[str, NDArray[np.float64]]:
        """Each figure as a table [problems, routers].

        It is the mean over the seeds of a problem.
        """
        shape = len(self.names), len(self.rows)
        totals = {field: np.zeros(shape) for field in (*_SUMS, *_COUNTS)}
        answers = np.zeros(shape)
        for column, rows in enumerate(self.rows.values()):
            for row in rows:
                at = self.place[row.domain, row.problem], column
                answers[at] += 1
                for field, total in totals.items():
                    total[at] += getattr(row, field)
        return {field: total / answers for field, total in totals.items()}

    def kind(self, router: str) -> str:
        """``small``, ``large``, ``random`` or ``routed``.

        A control whose large steps are drafted is none: it is not one model alone any more.
        """
        name, *more = str(self.settings["routers"][router]).partition(" ")[0].split(":")
        plain = not any(part.startswith("draft=") for part in more)
        return name if name in ("small", "large", "random") and plain else "routed"

    def alone(self, writer: str) -> str | None:
        """The router that is one model alone, if any."""
        return next((r for r in self.routers if self.kind(r) == writer), None)

    def routed(self) -> list[str]:
        """Routers that are no control."""
        return [router for router in self.routers if self.kind(router) == "routed"]


def load(folders: Sequence[Path], *, seconds: bool = False) -> Results:
    """Read what ``steer eval`` wrote.

    A line that is still being written is left out.

    Args:
        folders: one or several; together they hold each answer once.
        seconds: times will be compared, so they have to come from one kind of run.

    Raises:
        SteerError: no results, or results that do not belong into one table: of other pairs, made
            with other options, of other problems, or the same answer twice.
    """
    settings: dict[str, Any] = {}
    problems: dict[Name, Asked] = {}
    rows: dict[Key, ResultRow] = {}
    home: dict[Key, Path] = {}
    for folder in folders:
        new, answers = read_results(folder)
        if settings:
            _comparable(folders[0], settings, folder, new, seconds)
        settings = _joined(settings, new)
        for name, problem in read_problems(folder).items():
            known = problems.setdefault(name, problem)
            if known != problem:
                raise SteerError(
                    f"problem {':'.join(name)} of {str(folder)!r} is another one than in the "
                    f"folders before it ({known.change(problem)}): report them apart"
                )
        for row in answers:
            if home.setdefault(row.key, folder) != folder:
                raise SteerError(
                    f"{str(home[row.key])!r} and {str(folder)!r} both answer {row.domain}:"
                    f"{row.problem} by {row.router!r}, seed {row.seed}: give one of them"
                )
            rows[row.key] = row
    if not rows:
        raise SteerError(f"{str(folders[0])!r} holds no answers yet: run `steer eval` first")
    return _complete(rows.values(), problems, settings)


def _comparable(
    first: Path, old: Mapping[str, Any], folder: Path, new: Mapping[str, Any], seconds: bool
) -> None:
    changed = first_difference(old, new, ignore=() if seconds else _RUNTIME)
    if not changed:
        return
    if old["pair"] != new["pair"]:
        changed = f"{_models(old)} there, {_models(new)} here"
        raise SteerError(
            f"{str(folder)!r} is of another pair than {str(first)!r} ({changed}): "
            "report each pair on its own"
        )
    way = "report them apart"
    if seconds and not first_difference(old, new, ignore=_RUNTIME):
        way = "leave out --seconds"
    raise SteerError(
        f"{str(folder)!r} was made with other settings than {str(first)!r} ({changed}): {way}"
    )


def _models(settings: Mapping[str, Any]) -> str:
    about = settings.get("about", {})
    names = [about.get(writer, {}).get("name", "?") for writer in ("small", "large")]
    return f"{' + '.join(names)}, {settings['pair']}"


def _joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = ("routers", "signals")
    return {**new, **old, **{key: {**old.get(key, {}), **new.get(key, {})} for key in both}}


def _complete(
    rows: Iterable[ResultRow], problems: Mapping[Name, Asked], settings: Mapping[str, Any]
) -> Results:
    """Leaves out problems that not every router has answered: only the rest can be compared."""
    by_router: dict[str, dict[Name, list[ResultRow]]] = defaultdict(lambda: defaultdict(list))
    seen: dict[Name, None] = {}
    for row in rows:
        by_router[row.router][row.domain, row.problem].append(row)
        seen[row.domain, row.problem] = None
    common = [name for name in seen if all(name in answers for answers in by_router.values())]
    if not common:
        few = min(by_router, key=lambda router: len(by_router[router]))
        raise SteerError(
            f"no problem was answered by every router ({few!r} has answered {len(by_router[few])} "
            "others): let `steer eval` finish, or report the folders apart"
        )
    order = [router for router in settings["routers"] if router in by_router]
    table = {r: [row for name in common for row in by_router[r][name]] for r in order}
    return Results(table, common, len(seen) - len(common), problems, settings)
