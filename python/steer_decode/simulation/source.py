"""Recorded answers from files.

They are saved traces, or the folder of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core import saved
from ..core.transcript import WRITERS, Writer
from ..errors import SteerError
from ..evaluation.results import read_results
from ..evaluation.rows import ResultRow
from ..util.text import short
from . import script as scripts_of
from .script import Script

_UNFINISHED = ("", "interrupted", "error")
_WAY = "make some with `steer generate --trace FILE` or `steer eval`"
_CONTROLS = ("small", "large")


@dataclass
class Answers:
    """What was recorded.

    Attributes:
        router: that the answers are of.
        scripts: of them.
        alone: of answers of the large model alone, where they were recorded; else empty.
        parameters: that a token passes, by model, where they are known.
        models: their names, likewise.
        unfinished: answers that were cut off, and are left out.
    """

    router: str
    scripts: list[Script] = field(default_factory=list)
    alone: list[Script] = field(default_factory=list)
    parameters: dict[Writer, int] = field(default_factory=dict)
    models: dict[Writer, str] = field(default_factory=dict)
    unfinished: int = 0


def read(
    paths: Sequence[Path],
    router: str | None = None,
    stretch: float = 1.0,
    told: Callable[[int], object] = lambda _: None,
) -> Answers:
    """Read recorded answers.

    Args:
        paths: traces of ``steer generate``, folders of them, or one folder of ``steer eval``.
        router: whose answers are wanted; it may be left out where there is one.
        stretch: times as many tokens in each prompt and step.
        told: is told how many have been read.

    Raises:
        SteerError: there are none, they are of several routers, or one cannot be simulated.
    """
    results = [path for path in paths if (path / "settings.json").exists()]
    if results and len(paths) > 1:
        raise SteerError(
            f"{str(results[0])!r} is the folder of an evaluation: give it alone, or traces only"
        )
    found = _of_results(results[0], router, stretch) if results else None
    if found is None:
        found = _of_traces(_files(paths), router, stretch, told)
    if not found.scripts:
        raise SteerError(f"none of {found.unfinished} answers was written to its end: {_WAY}")
    return found


def _files(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise SteerError(f"no traces (*.json) are in {str(path)!r}: {_WAY}")
        found += inside
    if not found:
        raise SteerError(f"TRACES are empty: {_WAY}")
    return found


def _of_traces(
    files: Sequence[Path], router: str | None, stretch: float, told: Callable[[int], object]
) -> Answers:
    read = []
    for i, file in enumerate(files, 1):
        read.append((file, *saved.load(file)))
        told(i)
    policies = list(dict.fromkeys(answer.output.trace.policy for _, answer, _ in read))
    chosen = _chosen(router, policies, "traces")
    answers = Answers(chosen)
    alone = []
    for file, answer, others in read:
        trace = answer.output.trace
        if trace.policy != chosen:
            continue
        if trace.stop_reason in _UNFINISHED:
            answers.unfinished += 1
            continue
        answers.scripts.append(scripts_of.of_trace(trace, repr(str(file)), stretch))
        answers.models = dict(answer.models)
        answers.parameters = {w: answer.active.get(w, answer.parameters[w]) for w in WRITERS}
        if "large" in others:
            alone.append((file, others["large"].output.trace))
    if len(alone) == len(answers.scripts):
        answers.alone = [
            scripts_of.of_trace(trace, f"the large model's answer in {str(file)!r}", stretch)
            for file, trace in alone
            if trace.stop_reason not in _UNFINISHED and not any(s.drafts for s in trace.steps)
        ]
    return answers


def _of_results(folder: Path, router: str | None, stretch: float) -> Answers:
    settings, rows = read_results(folder)
    there = {row.router for row in rows}
    routers = [name for name in settings["routers"] if name in there]
    if not routers:
        raise SteerError(f"{str(folder)!r} holds no answers: {_WAY}")
    routed = [name for name in routers if name not in _CONTROLS]
    chosen = _chosen(router, routers, str(folder), routed)
    answers = Answers(chosen)
    ended = [r for r in rows if r.stop_reason not in _UNFINISHED and r.trace]
    of = [row for row in rows if row.router == chosen]
    kept = [row for row in ended if row.router == chosen]
    answers.unfinished = len(of) - len(kept)
    answers.scripts = [scripts_of.of_row(row, _named(row), stretch) for row in kept]
    answers.alone = [
        scripts_of.of_row(row, _named(row), stretch) for row in ended if row.router == "large"
    ]
    about: Any = settings.get("about", {})
    for writer in WRITERS:
        known = about.get(writer, {})
        if "parameters" in known:
            answers.parameters[writer] = known.get("active", known["parameters"])
        if "name" in known:
            answers.models[writer] = known["name"]
    return answers


def _named(row: ResultRow) -> str:
    return f"the answer of {short(row.router)[1:-1]} to {short(f'{row.domain}:{row.problem}')}"


def _chosen(
    router: str | None, routers: Sequence[str], where: str, routed: Sequence[str] | None = None
) -> str:
    """The router that is meant, of those that there are."""
    listed = ", ".join(short(name)[1:-1] for name in routers)
    if router is not None:
        if router in routers:
            return router
        raise SteerError(f"no answers of --router {router!r} are in {where}: there are {listed}")
    likely = routers if routed is None else routed or routers
    if len(likely) == 1:
        return likely[0]
    raise SteerError(f"{where} are of several routers ({listed}): choose one with --router")
