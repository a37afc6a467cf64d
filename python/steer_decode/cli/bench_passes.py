"""``steer bench passes``: how long a pass takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..util.files import check_writable, write_whole
from . import options as opt
from . import say
from .models import Models
from .options import numbers


def passes(
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    threads: opt.ThreadsOption = None,
    rows: Annotated[
        str | None, typer.Option("--rows", help="Answers at a time; by default 1,2,4,8,16.")
    ] = None,
    lengths: Annotated[
        str | None, typer.Option("--lengths", help="Tokens of prompts; by default 4,24,96.")
    ] = None,
    turns: Annotated[
        int | None, typer.Option("--turns", help="Of each, of which the median counts; 9.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write them to this file.")
    ] = None,
) -> None:
    """Time passes of both models, for `steer simulate --passes`.

    Each model alone reads prompts and writes a few tokens, in this package's loop on this machine:
    forward pass, sampling, and the loop's own work. Printed is the line that is fitted to it.

    Examples:

    - `steer bench passes --pair demo --json passes.json`

    - `steer bench passes --small ./small --large ./large --rows 1,8,64 --lengths 16,512`
    """
    from ..bench.passes.measure import PassesPlan, measure
    from ..simulation.passes import Timed, fit

    given: dict[str, Any] = {
        "rows": numbers("rows", rows),
        "lengths": numbers("lengths", lengths),
        "turns": turns,
    }
    plan = PassesPlan(**{name: value for name, value in given.items() if value is not None})
    if json_file is not None:
        check_writable(json_file)
    models = Models(pair, small, large, dtype and dtype.value, device, threads)
    loaded = models.load()
    from ..demo import problems
    from ..util.text import dump
    from .view.terminal import Bar

    texts = [problem.prompt for problem in problems("math", 8)]
    with Bar("passes", 2 * len(plan.rows) * len(plan.lengths)) as bar:
        found = measure(loaded, texts, plan, bar.advance)
    for writer, timed in found.items():
        line = fit([Timed(int(t["rows"]), int(t["tokens"]), t["ms"]) for t in timed])
        say.out(f"{writer}: {line} (--{writer}-ms {line.option})")
    if json_file is not None:
        write_whole(json_file, dump({"version": 1, "kind": "passes", **found}, indent=1) + "\n")
        say.note(f"the passes are in {json_file}")
