"""``steer show``: a trace from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..util.files import check_writable


def show(
    trace: Annotated[Path, typer.Argument(help="Made by `steer generate --trace FILE`.")],
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw it as a picture.")] = None,
) -> None:
    """Show a saved trace, or draw it as a picture.

    Examples:

    - `steer show trace.json`

    - `steer show trace.json --svg docs/trace.svg`
    """
    if svg is not None:
        check_writable(svg)
    from ..core import saved as record
    from ..util.files import write_whole
    from .view import answer as render
    from .view.terminal import console

    answer, alone = record.load(trace)
    if svg is not None:
        write_whole(svg, render.svg(answer, alone))
        return
    screen = console()
    for part in render.page(answer, alone):
        screen.print(part)
