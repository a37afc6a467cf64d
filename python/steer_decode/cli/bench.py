"""``steer bench``: the kernels, and decoding around models.

Kernels stand against their peers, decoding against bare models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..bench.kernels.plan import (
    CLOCKS,
    DEVICES,
    DTYPES,
    OPS,
    QUICK,
    SAMPLINGS,
    Case,
    KernelPlan,
    known,
)
from ..errors import SteerError
from . import say
from .bench_decode import decode
from .bench_passes import passes
from .bench_serve import serve
from .options import names, numbers

if TYPE_CHECKING:
    from ..bench.kernels.like import Earlier
    from ..bench.kernels.report import JsonFile

bench = typer.Typer(rich_markup_mode="markdown")
bench.command()(decode)
bench.command()(serve)
bench.command()(passes)

_SECONDS, _QUICK_SECONDS = 0.7, 0.4


@bench.callback(invoke_without_command=True)
def _bench(ctx: typer.Context) -> None:
    """Measure the kernels, or the decoding around the models, on this machine."""
    if ctx.invoked_subcommand is None:
        say.out(ctx.get_help())


@bench.command()
def kernels(
    ops: Annotated[str | None, typer.Option("--ops", help=f"Some of {', '.join(OPS)}.")] = None,
    batches: Annotated[
        str | None, typer.Option("--batches", help="Rows; by default 1,8,64,256.")
    ] = None,
    vocabs: Annotated[
        str | None,
        typer.Option("--vocabs", help="Columns; by default 32000,50257,128256,151936,262144."),
    ] = None,
    dtypes: Annotated[
        str | None, typer.Option("--dtypes", help=f"Some of {', '.join(DTYPES)}.")
    ] = None,
    samplings: Annotated[
        str | None,
        typer.Option(
            "--samplings",
            help=f"Of sample_logits, some of {', '.join(SAMPLINGS)}; by default plain.",
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", help="Largest logits to return, 1 to 64; by default 8.")
    ] = None,
    threads: Annotated[
        str | None, typer.Option("--threads", help="CPU threads, as in 1,2; by default 1.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like", help="The cases of this file, which --json has written; its times beside."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Batches 1,8, two vocabularies, two dtypes; no compiler."),
    ] = False,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="torch.compile as a peer; by default unless --quick."
        ),
    ] = None,
    cold_l2: Annotated[
        bool, typer.Option("--cold-l2", help="On CUDA, empty the L2 cache before every call.")
    ] = False,
    clocks: Annotated[
        str | None,
        typer.Option("--clocks", help=f"On CUDA, some of {', '.join(CLOCKS)}; by default events."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", help=f"For each case and clock; {_SECONDS}, or {_QUICK_SECONDS} if quick."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the rows to this file as they come.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw a picture, .png or .svg; needs matplotlib.")
    ] = None,
) -> None:
    """Measure the kernels against what else is installed.

    Their peers are torch, torch.compile, and libraries that are there. Contenders take turns in the
    same process, and the median of each counts. GB/s are the bytes of one read of the input over
    our time; "% of copy" sets them beside a copy of the same input. The column of a peer is its
    time over ours: how many times faster ours is.

    On CUDA there are three clocks: `events`, the device's time of a call; `graph`, of a call in a
    graph of many; `wall`, the host's, from the call to the end of the synchronisation.

    Every peer makes a row of the JSON list: op, backend, device, dtype, batch, vocab, k, sampling,
    threads, clock, median_us, gbps, peer, peer_us, ratio (peer_us / median_us). With `--like` it
    also has earlier_us, the time of the same case and clock in that file.

    Examples:

    - `steer bench kernels --quick`

    - `steer bench kernels --ops logit_stats --vocabs 151936 --batches 1,8 --threads 1,2`

    - `steer bench kernels --device cuda --k 20 --cold-l2 --json h100.json --plot h100.png`

    - `steer bench kernels --device cuda --ops sample_logits --samplings top_p=0.95 --clocks graph`

    - `steer bench kernels --device cuda --like h100.json --json mine.json`
    """
    chosen = {
        "ops": names(ops),
        "batches": numbers("batches", batches),
        "vocabs": numbers("vocabs", vocabs),
        "dtypes": names(dtypes),
        "threads": numbers("threads", threads),
        "samplings": names(samplings),
        "k": k,
    }
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    earlier = _earlier(like, device, [*given, *(["quick"] if quick else [])])
    if earlier is None:
        plan = replace(QUICK if quick else KernelPlan(), device=device, **given)
        plan.check()
        cases = plan.cases()
    else:
        cases = list(earlier.cases)
    if seconds is None:
        seconds = _QUICK_SECONDS if quick else _SECONDS
    if not 0 < seconds <= 3600:
        raise SteerError(f"--seconds must be above 0 and at most 3600, got {seconds:g}")
    if cold_l2 and device != "cuda":
        raise SteerError("--cold-l2 is for --device cuda")
    if clocks is not None and device != "cuda":
        raise SteerError("--clocks is for --device cuda")
    default = ["events"] if earlier is None else earlier.clocks
    clock_names = names(clocks) if clocks is not None else default
    known("clock", clock_names or [], CLOCKS)
    file = _outputs(json_file, plot)
    _has_device(device)
    options = {
        "seconds": seconds,
        "compiled": not quick if compiled is None else compiled,
        "cold_l2": cold_l2,
        "clocks": clock_names,
    }
    rows = _run(cases, file, options, earlier)
    _show(rows, plot, device)
    if json_file:
        say.note(f"{len(rows)} rows are in {json_file}")


def _earlier(like: Path | None, device: str, given: Sequence[str]) -> Earlier | None:
    """What ``--like`` names, which has all that says what is measured.

    Raises:
        SteerError: something else says so too.
    """
    if like is None:
        return None
    if given:
        raise SteerError(f"--like has the cases to measure: leave out --{given[0]}")
    known("device", [device], DEVICES)
    from ..bench.kernels.like import read_like

    return read_like(like, device)


def _run(
    cases: Sequence[Case], file: JsonFile | None, options: Any, earlier: Earlier | None
) -> list[dict[str, Any]]:
    from ..bench.kernels.measure import measure
    from ..util.interruption import held, telling
    from .view.terminal import Bar

    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    bar = Bar("cases", len(cases))
    done = 0

    def state() -> str:
        kept = "; their rows are written" if file and rows else ""
        return f"{done} of {len(cases)} cases were measured{kept}"

    with telling(state), bar:
        for case in cases:
            bar.describe(str(case))
            found = measure(case, left_out=missing.__setitem__, **options)
            told = [row.as_dict() for row in found]
            if earlier is not None:
                told = [earlier.beside(row) for row in told]
            with held():  # what is told is what is written
                rows += told
                if file:
                    file.add(told)
                done += 1
            bar.advance()
    for peer, reason in missing.items():
        say.note(f"{peer} was left out where it failed: {reason}")
    return rows


def _show(rows: list[dict[str, Any]], plot: Path | None, device: str) -> None:
    from rich.table import Table

    from ..bench.kernels.measure import machine
    from ..bench.kernels.report import NOTE, markdown, tables
    from .view.terminal import console

    title = machine(device)
    screen = console()
    if screen.is_terminal:
        screen.print(title)
        for name, (head, lines) in tables(rows, screen.width).items():
            screen.print(f"\n{name}", style="bold")
            table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
            for column in head:
                text = column in ("dtype", "peer")
                table.add_column(column, justify="left" if text else "right", overflow="fold")
            for line in lines:
                table.add_row(*line)
            screen.print(table)
        screen.print(f"\n{NOTE}")
    else:
        say.out(markdown(rows, title))
    if plot:
        from ..bench.kernels.plot import draw

        draw(rows, plot, title)
        say.note(f"the picture is in {plot}")


def _outputs(json_file: Path | None, plot: Path | None) -> JsonFile | None:
    """Finds out before anything is measured that a file cannot be written."""
    from ..bench.kernels.plot import check_plot
    from ..bench.kernels.report import JsonFile, check_writable

    if plot:
        check_plot(plot)
        check_writable(plot, "--plot")
    return JsonFile(json_file) if json_file else None


def _has_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SteerError("--device cuda: torch finds no CUDA device on this machine")
