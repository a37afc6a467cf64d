"""``steer bench serve``: a server under load, on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SteerError
from ..util.files import check_writable, write_whole
from . import say
from .models import DEMO, Models
from .routers import make_policy

if TYPE_CHECKING:
    from ..bench.serve.measure import ServeResult

MISSED = 1  # exit status with --check


def serve(
    router: Annotated[
        str, typer.Option("--router", help="That the server and its peer have.")
    ] = "both-sides",
    streams: Annotated[
        int | None, typer.Option("--streams", min=1, max=1000, help="At once; 200.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, max=256, help="Of the server; 32.")
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option("--requests", min=20, max=20_000, help="For memory; 2000."),
    ] = None,
    leaving: Annotated[
        int | None,
        typer.Option("--leaving", min=1, max=10_000, help="Clients that hang up; 1000."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of it.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with status 1 if a limit is missed.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the percentiles.")] = None,
) -> None:
    """Load `steer serve` and compare it with the router alone.

    The official client of OpenAI asks; it and the server share this machine, so that with two cores
    the client's own work is part of what is measured. Answers are greedy, and each text is compared
    with that of `Router.cohort`, which is also the peer in throughput, with as many rows.

    Examples:

    - `steer bench serve --quick`

    - `steer bench serve --json serve.json --svg serve.svg --check`
    """
    for file in (json_file, svg):
        if file is not None:
            check_writable(file)
    try:
        import fastapi  # noqa: F401
        import openai  # noqa: F401
    except ImportError as error:
        raise SteerError(
            f"steer bench serve needs {error.name}: pip install 'steer-kernels[serve]' openai"
        ) from error
    from ..bench.serve.measure import QUICK, ServePlan
    from ..bench.serve.report import draw, limits, lines

    given = {"streams": streams, "rows": rows, "requests": requests, "leaving": leaving}
    plan = replace(
        QUICK if quick else ServePlan(), **{n: v for n, v in given.items() if v is not None}
    )
    found = _measured(router, plan)
    for line in lines(found):
        say.out(line)
    if json_file:
        write_whole(json_file, json.dumps(asdict(found), indent=1) + "\n")
    if svg:
        draw(found, svg)
    missed = [row for row in limits(found) if not row.ok]
    if check and missed:
        raise typer.Exit(MISSED)


def _measured(router: str, plan: Any) -> ServeResult:
    from ..bench.serve.measure import measure
    from ..decode.router import Router
    from ..demo import problems
    from .view.terminal import lines

    models = Models(DEMO, None, None, None, "cpu")
    made = Router(models.load(), make_policy(router, models))
    domains = ("math", "qa", "planning")
    each = [problems(domain, plan.streams // 3 + 1) for domain in domains]
    prompts = [problem.prompt for some in zip(*each, strict=True) for problem in some]
    with lines("steps of the measurement", 5) as told:

        def tell(what: str) -> None:
            say.note(f"measuring {what}")
            told.advance()

        return measure(made, prompts, plan, tell)
