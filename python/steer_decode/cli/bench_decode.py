"""``steer bench decode``: what routed decoding costs here.

The machinery, that is, on this machine.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..bench.decode.plan import GROUPS, MEASURES, MODELS, QUICK, DecodePlan
from ..bench.kernels.plan import known
from ..errors import SteerError
from . import options as opt
from . import say
from .models import Models
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
        int | None,
        typer.Option(
            "--tokens", help="Of one turn; by default 128 to 8, by model, and 200 of an answer."
        ),
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
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    dtype: opt.DtypeOption = None,
) -> None:
    """Measure what routed decoding costs beside the models themselves.

    Every figure is a ratio. The sides of a ratio take turns in the same process and the least time
    of each counts: CPU time for one thread, the wall clock for more. The demo pair is measured, and
    real shapes with random weights, all in float32. A tick or a cross stands beside each ratio that
    has a limit. With --small and --large, what takes whole answers is measured on that pair alone.

    The rows of the JSON list: measure, model, threads, context, value, limit, ok, spread (median
    over least time of our side: far from 1, the machine was busy).

    Examples:

    - `steer bench decode --quick`

    - `steer bench decode --only loop,generate --models demo --contexts 128,4096 --threads 1`

    - `steer bench decode --only speculative,speculative-k4 --threads 1` (beside `generate` of
      transformers with an assistant model)

    - `steer bench decode --only overlap,overlap-cohort --threads 1` (both models at
      once, on two cores)

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
    if small is not None or large is not None:
        pair = Models(None, small, large, dtype.value if dtype else None, "cpu")
        plan = _on_pair(plan, pair, given)
    elif dtype is not None:
        raise SteerError("--dtype is for a pair of your own: add --small and --large")
    rows = _run(plan, JsonFile(json_file) if json_file else None)
    limited = [row for row in rows if row.limit is not None]
    missed = [row for row in limited if not row.ok]
    say.out(f"\n{len(limited) - len(missed)} of {len(limited)} limits are met.")
    if json_file:
        say.note(f"{len(rows)} rows are in {json_file}")
    if check and missed:
        raise typer.Exit(MISSED)


def _on_pair(plan: DecodePlan, pair: Models, given: dict[str, Any]) -> DecodePlan:
    """The plan for a pair that is loaded for it; ``given`` are the options as they were typed.

    Raises:
        SteerError: what is asked for cannot be measured on such a pair, or there is no such pair.
    """
    if given["models"] is not None:
        raise SteerError("give either --models or --small and --large, not both")
    answers = (*GROUPS["answers"], *GROUPS["overlap"])
    if given["only"] is not None:
        known("measure of a pair of your own", plan.only, answers)
    only = tuple(name for name in plan.only if name in answers)
    return replace(plan, only=only, given=pair.load())


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
