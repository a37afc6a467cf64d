"""``steer eval --replay``: thresholds over answers that are there.

Signals too, and without a model.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import typer

from ..errors import SteerError
from ..util.files import check_writable
from . import say

_WITH_REPLAY = ("replay", "out")


def replay(context: typer.Context, folder: Path, out: Path | None) -> None:
    """Sweep query cascades over the control runs in ``folder``.

    What needs a new run is said.

    Raises:
        SteerError: options that have no meaning without a run, or a folder that cannot be replayed.
    """
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in _WITH_REPLAY and _on_the_command_line(context, parameter.name)
    ]
    if given:
        raise SteerError(
            f"{given[0]} has no meaning with --replay, which runs nothing: it takes everything but "
            "--out from the folder"
        )
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
