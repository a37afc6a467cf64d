"""``steer bench decode``: what routed decoding costs here.

The machinery, that is, on this machine.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..bench.decode.plan import MEASURES, MODELS, QUICK, DecodePlan
from ..errors import SteerError
from . import say
from .options import names, numbers

if TYPE_CHECKING:
    from ..bench.decode.plan import DecodeRow

MISSED = 1  # exit status with --check


def decode(
    only: Annotated[
        str | None, typer.Option("--only", help=f"Some of {', '.join(MEASURES)}.")
    ] = None,
    models: Annotated[
        str | None, typer.Option("--models", help=f"Some of {', '.join(MODELS)}.")
    ] = None,
    threads: Annotated[
        str | None, typer.Option("--threads", help="CPU threads; by default 1,2.")
    ] = None,
    contexts: Annotated[
        str | None, typer.Option("--contexts", help="Prompt lengths; by default 128,1024,4096.")
    ] = None,
    problems: Annotated[
        int | None, typer.Option("--problems", help="Of the demo's tasks; 16, or 8 if quick.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", help="Of one turn; by default 128 to 8, by model.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", help=f"A case; {DecodePlan.seconds:g}, or {QUICK.seconds:g} if quick."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two models, one thread, contexts 128,4096, no wholes.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with status 1 if a limit is missed.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the rows to this file as they come.")
    ] = None,
) -> None:
    """Measure what routed decoding costs beside the models themselves.

    Every figure is a ratio. The sides of a ratio take turns in the same process and the least time
    of each counts: CPU time for one thread, the wall clock for more. The demo pair is measured, and
    real shapes with random weights, all in float32. A tick or a cross stands beside each ratio that
    has a limit.

    The rows of the JSON list: measure, model, threads, context, value, limit, ok, spread (median
    over least time of our side: far from 1, the machine was busy).

    Examples:

    - `steer bench decode --quick`

    - `steer bench decode --only loop,generate --models demo --contexts 128,4096 --threads 1`

    - `steer bench decode --json decode.json --check`
    """
    from ..bench.kernels.report import JsonFile

    plan = QUICK if quick else DecodePlan()
    given: dict[str, Any] = {
        "only": names(only),
        "models": names(models),
        "threads": numbers("threads", threads),
        "contexts": numbers("contexts", contexts),
        "problems": problems,
        "tokens": tokens,
        "seconds": seconds,
    }
    plan = replace(plan, **{n: v for n, v in given.items() if v is not None})
    plan.check()
    rows = _run(plan, JsonFile(json_file) if json_file else None)
    limited = [row for row in rows if row.limit is not None]
    missed = [row for row in limited if not row.ok]
    say.out(f"\n{len(limited) - len(missed)} of {len(limited)} limits are met.")
    if json_file:
        say.note(f"{len(rows)} rows are in {json_file}")
    if check and missed:
        raise typer.Exit(MISSED)


def _run(plan: DecodePlan, file: Any) -> list[DecodeRow]:
    from ..bench.decode.measure import measure
    from ..bench.decode.report import head, line
    from ..bench.kernels.measure import machine
    from ..util.interruption import held, telling
    from .models import quiet
    from .view.terminal import Bar, console

    quiet()
    jobs = plan.jobs()
    rows: list[DecodeRow] = []
    if not jobs:
        raise SteerError(
            f"--only {','.join(plan.only)} is measured on the demo pair: add demo to --models"
        )
    screen, bar = console(), Bar("jobs", len(jobs))
    screen.print(f"{machine('cpu')}\n\n{head()}", markup=False)
    done = 0

    def state() -> str:
        kept = "; their rows are written" if file and rows else ""
        return f"{done} of {len(jobs)} jobs were measured{kept}"

    with telling(state), bar:
        for job in jobs:
            bar.describe(str(job))
            found = measure(job, plan)
            with held():  # what is told is what is written
                rows += found
                if file:
                    file.add(row.as_dict() for row in found)
                done += 1
            for row in found:
                style = "red" if row.ok is False else None
                screen.print(line(row), style=style, markup=False, soft_wrap=True)
            bar.advance()
    return rows
