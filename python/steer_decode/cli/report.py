"""``steer report``: one page from the results of `steer eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SteerError
from ..util.files import check_writable
from . import say


def report(
    results: Annotated[list[Path], typer.Argument(help="Folders of `steer eval`, of one pair.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    figures: Annotated[
        Path | None,
        typer.Option("--figures", help="Folder for every picture as PNG and SVG, and the numbers."),
    ] = None,
    title: Annotated[
        str, typer.Option("--title", help="Of the page.")
    ] = "Routing between two language models",
    seconds: Annotated[
        bool, typer.Option("--seconds", help="Show seconds too; they depend on the machine.")
    ] = False,
    answers: Annotated[
        int, typer.Option("--answers", min=1, help="Most answers that the page carries.")
    ] = 300,
    resamples: Annotated[
        int, typer.Option("--resamples", min=100, help="Of the bootstrap.")
    ] = 2000,
) -> None:
    """Make one self-contained HTML page of evaluation results.

    It shows accuracy against each cost beside the random mix of both models, routers with 95 %
    intervals, use of the large model by step and difficulty, confidence of right and wrong steps,
    and a browser of answers coloured by writer. It needs no network and can be printed.

    Examples:

    - `steer report results/demo-test-1a2b3c4d -o report.html`

    - `steer report results/a results/b -o report.html --figures figures`
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise SteerError(f"--out must end in .html, got {str(out)!r}")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise SteerError(f"--figures must be a folder, got the file {str(figures)!r}")
    folders = list(dict.fromkeys(results))
    check_writable(out)
    if figures is not None:
        check_writable(figures / "routers.json")
    from ..evaluation.report import build, check_packages, load
    from .view.terminal import lines

    check_packages()
    with lines("making the report"):
        loaded = load(folders, seconds=seconds)
        made = build(loaded, title=title, seconds=seconds, answers=answers, resamples=resamples)
        made.write(out, figures)
    say.note(f"the report is in {out}")
