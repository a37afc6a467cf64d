"""``steer simulate``: engines under load, from recorded answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SteerError
from ..util.files import check_writable
from . import options as opt
from .models import Models
from .simulated import Simulation, read_answers, tariffs_of

if TYPE_CHECKING:
    from ..core.transcript import Writer
    from ..simulation.size import Target

_ENGINES, _LOAD = "Engines", "Load"
_ONE_EACH, _ONE = "1,1", "poisson:1"


def simulate(
    traces: Annotated[
        list[Path],
        typer.Argument(help="Of `steer generate --trace`, or one folder of `steer eval`."),
    ],
    router: Annotated[
        str | None, typer.Option("--router", help="Whose answers, where there are several.")
    ] = None,
    small_ms: Annotated[
        str | None,
        typer.Option(
            "--small-ms",
            help="Of a pass of the small model: `MS` over one token, or `MS:ROW:TOKEN:READ` with "
            "what each further row takes, each further token, and a pass with such.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    large_ms: Annotated[
        str | None,
        typer.Option(
            "--large-ms",
            help="Of the large model; by default in proportion to the parameters.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    passes: Annotated[
        Path | None,
        typer.Option(
            "--passes", help="Timed passes, of `steer bench passes`.", rich_help_panel=_ENGINES
        ),
    ] = None,
    replicas: Annotated[
        str, typer.Option("--replicas", help="Engines: `SMALL,LARGE`.", rich_help_panel=_ENGINES)
    ] = "1,1",
    machines: Annotated[
        str,
        typer.Option("--machines", help="That one engine takes.", rich_help_panel=_ENGINES),
    ] = "1,1",
    rows: Annotated[
        str, typer.Option("--rows", help="Calls at once in one.", rich_help_panel=_ENGINES)
    ] = "256",
    batch_tokens: Annotated[
        str, typer.Option("--batch-tokens", help="Most of a pass.", rich_help_panel=_ENGINES)
    ] = "8192",
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            help="Tokens whose keys and values one holds; by default any number.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    block: Annotated[
        int, typer.Option("--block", help="Tokens of a cache block.", rich_help_panel=_ENGINES)
    ] = 16,
    gate: Annotated[
        str | None,
        typer.Option(
            "--gate",
            help="Engines that judge steps themselves: `none`, `small`, `both`; by default none, "
            "or small for a router that looks before a step.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    placing: Annotated[
        str,
        typer.Option(
            "--placing",
            help="Where a call goes: `session`, `least` or `round`.",
            rich_help_panel=_ENGINES,
        ),
    ] = "session",
    call_ms: Annotated[
        str | None,
        typer.Option(
            "--call-ms",
            help="`MS:FRONT` of a call beside the passes; FRONT is what an engine's server spends "
            "on one call after another. 5:1.",
            rich_help_panel=_ENGINES,
            show_default=False,
        ),
    ] = None,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process", help="Both models on one device, no servers.", rich_help_panel=_ENGINES
        ),
    ] = False,
    arrivals: Annotated[
        str,
        typer.Option(
            "--arrivals",
            help="`poisson:RATE`, `steady:RATE` (a second), or `closed:NUMBER` at once.",
            rich_help_panel=_LOAD,
        ),
    ] = _ONE,
    carry: Annotated[
        float | None,
        typer.Option(
            "--carry",
            help="Find the engines that carry so many answers a second, in place of --replicas and "
            "--arrivals.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(
            "--within",
            help="With --carry: seconds in which 95 of 100 answers are there.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    answers: Annotated[
        int | None,
        typer.Option(
            "--answers",
            min=1,
            max=1_000_000,
            help="Of a run; by default as many as make it long beside an answer.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    stretch: Annotated[
        float,
        typer.Option(
            "--stretch", help="Times as many tokens in prompts and steps.", rich_help_panel=_LOAD
        ),
    ] = 1.0,
    warm: Annotated[
        float,
        typer.Option(
            "--warm",
            min=0,
            max=0.9,
            help="Part of the answers that come before what is measured.",
            rich_help_panel=_LOAD,
        ),
    ] = 0.4,
    in_order: Annotated[
        bool,
        typer.Option("--in-order", help="Ask in the traces' order.", rich_help_panel=_LOAD),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", rich_help_panel=_LOAD)] = 0,
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="This load only; no other is compared.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Draw all loads: FILE.svg, .png or .pdf.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Simulate engines under load, by recorded answers.

    Two pools of engines with continuous batching and prefix caches, as vLLM has them, answer what
    traces say; beside them the large model alone on the same machines. Said are throughput,
    latency, utilisation, the four costs, and up to which load routing is the faster. No model runs:
    the time of a pass is given, or fitted to timed passes. --small, --large or --pair name models
    whose sizes make the costs exact.

    Examples:

    - `steer simulate results/demo-test-1a2b3c4d --router steer --small-ms 4.6`

    - `steer simulate traces/ --small-ms 4.6 --large-ms 21 --replicas 2,1 --arrivals poisson:5`

    - `steer simulate traces/ --small-ms 4.6 --large-ms 21 --carry 40 --within 5` (which fleet?)

    - `steer simulate traces/ --passes passes.json --in-process --arrivals closed:16`

    - `steer simulate traces/ --small-ms 5:0.05:0.02 --large-ms 25 --cache 400000 --out load.svg`
    """
    from ..simulation import check_packages

    check_packages()  # before modules are imported that import it
    from ..simulation.arrivals import parse
    from ..simulation.setup import Wanted

    target = _target(carry, within, answers, replicas, arrivals, in_process, out)
    times: dict[Writer, str | None] = {"small": small_ms, "large": large_ms}
    wanted = Wanted(
        times, passes, replicas, machines, rows, batch_tokens, cache, gate, placing, call_ms,
        block, in_process, seed,
    )  # fmt: skip
    coming = parse(arrivals)
    wanted.check()
    models = Models(pair, small, large, None, None)
    if not 0 < stretch <= 1000:
        raise SteerError(f"--stretch must be above 0, up to 1000, got {stretch:g}")
    if out is not None:
        _check_picture(out, quick)
    found = read_answers(traces, router, stretch)
    tariffs = tariffs_of(models, found)
    run = Simulation(found, wanted, coming, tariffs, answers, warm, in_order)
    if target is not None:
        run.find(target, as_json)
    else:
        run.go(quick, out, as_json)


def _target(
    carry: float | None,
    within: float | None,
    answers: int | None,
    replicas: str,
    arrivals: str,
    in_process: bool,
    out: Path | None,
) -> Target | None:
    """What --carry asks for, if it does.

    Raises:
        SteerError: half of it is given, or what it is to find.
    """
    from ..simulation.size import Target

    if carry is None and within is None:
        return None
    if carry is None or within is None:
        given, missing = ("--within", "--carry") if carry is None else ("--carry", "--within")
        raise SteerError(f"{given} is given without {missing}: they say what is to be carried")
    for name, theirs in (
        ("--replicas", replicas != _ONE_EACH),
        ("--arrivals", arrivals != _ONE),
        ("--in-process", in_process),
        ("--out", out is not None),
    ):
        if theirs:
            raise SteerError(f"--carry finds the engines for one load: leave out {name}")
    return Target(carry, within, answers)


def _check_picture(out: Path, quick: bool) -> None:
    from importlib.util import find_spec

    from ..simulation.draw import SUFFIXES

    if quick:
        raise SteerError("--out draws all loads, and --quick simulates one: give either")
    if out.suffix.lower() not in SUFFIXES:
        raise SteerError(f"--out must end in {', '.join(SUFFIXES)}, got {str(out)!r}")
    if find_spec("matplotlib") is None:
        raise SteerError("--out needs matplotlib: pip install 'steer-kernels[simulate]'")
    check_writable(out)
