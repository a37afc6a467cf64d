"""``steer eval --replay``: routers over what is there.

From a folder of results, thresholds of query cascades; from records, whatever follows from what
both models made of every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import typer

from ..errors import SteerError
from ..evaluation.records import NAME
from ..util.files import check_writable
from . import say
from .models import Models

_WITH_REPLAY = ("replay", "out")
_OF_THE_PAIR = ("pair", "small", "large", "device")


def replay(context: typer.Context, paths: Sequence[Path], out: Path | None) -> None:
    """Replay a folder of results, or files of records.

    Raises:
        SteerError: options that have no meaning without a run, or what cannot be replayed.
    """
    if len(paths) == 1 and not _holds_records(paths[0]):
        _check_options(context, _WITH_REPLAY, "it takes everything but --out from the folder")
        _cascades(paths[0], out)
        return
    told = "from records it takes everything but the pair, to check that they are of it"
    _check_options(context, (*_WITH_REPLAY, *_OF_THE_PAIR), told)
    given = any(_on_the_command_line(context, name) for name in ("pair", "small", "large"))
    of = {name: context.params[name] for name in ("pair", "small", "large")}
    models = Models(**of, dtype=None, device=context.params["device"]) if given else None
    _records(paths, out, models)


def _holds_records(path: Path) -> bool:
    """Whether a path is a file, or a folder of records that is none of results."""
    return path.is_file() or ((path / NAME).is_file() and not (path / "results.jsonl").exists())


def _check_options(context: typer.Context, known: Sequence[str], told: str) -> None:
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in known and _on_the_command_line(context, parameter.name)
    ]
    if given:
        raise SteerError(f"{given[0]} has no meaning with --replay, which runs nothing: {told}")


def _records(paths: Sequence[Path], out: Path | None, models: Models | None) -> None:
    """Score what follows from records; what needs a run is said."""
    from ..evaluation.records.file import read_records
    from ..evaluation.records.replayed import replay_records, to_dict
    from ..evaluation.records.tables import markdown
    from ..util.files import write_whole
    from ..util.text import dump
    from .view.terminal import lines

    first = paths[0] / NAME if paths[0].is_dir() else paths[0]
    stem = first.name.removesuffix(".gz").removesuffix(".jsonl")
    place = (out or first.parent) / f"{stem}.replay.json"
    check_writable(place)
    records = read_records(paths)
    if models is not None:
        from ..evaluation.records.made import check_pair

        check_pair(records, models.load(), str(first))
    with lines("replaying the records"):
        found = replay_records(records)
    text = markdown(found)
    write_whole(place, dump(to_dict(found), indent=1) + "\n")
    write_whole(place.with_suffix(".md"), text)
    say.out(text)
    say.note(f"in {place.parent} are {place.name} and {place.with_suffix('.md').name}")


def _cascades(folder: Path, out: Path | None) -> None:
    """Sweep query cascades over the control runs in ``folder``.

    What needs a new run is said.

    Raises:
        SteerError: a folder that cannot be replayed.
    """
    from ..evaluation.replay.cascades import load, needs_a_run
    from ..evaluation.replay.sweep import markdown, sweep, write
    from ..evaluation.results import read_rows
    from .view.terminal import lines

    place = out or folder
    check_writable(place / "replay.json")
    with lines("replaying the answers"):
        recorded = load(folder)
        found = sweep(recorded)
        note = needs_a_run(folder)
    write(place, found, note)
    say.out(markdown(found, note))
    drawn = "; pictures need matplotlib: pip install matplotlib"
    if find_spec("matplotlib") is not None:
        from ..evaluation.replay.plot import draw
        from ..evaluation.summary import summarise

        rows, _ = read_rows(folder / "results.jsonl")
        known = set(recorded.names)
        run = [row for row in rows if (row.domain, row.problem) in known]
        others = {
            record["router"]: (record["accuracy"], record)
            for record in summarise(run)
            if record["domain"] == "all"
            and recorded.settings["routers"][record["router"]] not in ("small", "large")
            and record["answers"] == len(recorded.names)
        }
        for suffix in (".png", ".svg"):
            draw(found, place / f"replay{suffix}", others)
        drawn = ", and as pictures replay.png and replay.svg"
    say.note(f"in {place} are replay.json and replay.md{drawn}")


def _on_the_command_line(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name) if name else None
    # By its name: typer carries a click of its own, whose enumeration has no public place.
    return getattr(source, "name", "") == "COMMANDLINE"
