"""``steer eval``: routers over the demo's problems, accuracy against cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SteerError
from . import options as opt
from .session import Models, make_policy

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..demo import Problem
    from ..evaluate import Evaluation
    from ..policies import Policy
    from ..results import ResultsFolder


def evaluate(
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    threads: opt.ThreadsOption = 1,
    domains: Annotated[
        str, typer.Option("--domains", help="Some of math, qa, planning.")
    ] = "math,qa,planning",
    n: Annotated[int, typer.Option("--n", help="Problems of each domain.")] = 300,
    split: Annotated[str, typer.Option("--split", help="test, calibration or train.")] = "test",
    routers: Annotated[
        str, typer.Option("--routers", help="Specifications as in `steer generate --router`.")
    ] = "small,large,steer,first-token,random",
    random_shares: Annotated[
        str, typer.Option("--random-shares", help="Points of `random` between the two models.")
    ] = "0.25,0.5,0.75",
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Made by `steer calibrate`, for steer.")
    ] = None,
    max_new_tokens: opt.MaxNewTokensOption = None,
    temperature: opt.TemperatureOption = 0.0,
    top_p: opt.TopPOption = 1.0,
    top_k: opt.TopKOption = 0,
    min_p: opt.MinPOption = 0.0,
    seed: opt.SeedOption = 0,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes; more than one slows each a little.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of results; by default under results/.")
    ] = None,
) -> None:
    """Run several routers on the demo's problems and set each beside chance at its cost.

    Results go to results.jsonl in the folder of --out as they come. The same command goes on
    after an interruption; more routers, domains or problems may be added to a folder.

    `random` stands for random routing at the shares of --random-shares and for both models alone.
    The column "random %" of a router is the accuracy of random routing at that router's own share
    of large-model tokens: a straight line between the two neighbouring random runs.

    Examples:

    - `steer eval --pair demo --n 300 --routers small,large,steer,first-token,random`

    - `steer eval --domains math --n 100 --routers steer:gamma=0.4,steer:gamma=0.8,random`
    """
    models = Models(pair, small, large, dtype and dtype.value, device, threads)
    if not models.demo:
        raise SteerError(
            "eval asks the demo's problems, whose words no other pair knows: "
            "leave out --small and --large"
        )
    problems = _problems(domains, n, split)
    policies, curve = _routers(routers, random_shares, models, calibration)
    sampling = {
        "max_new_tokens": models.max_new_tokens(max_new_tokens),
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "seed": seed,
    }
    from ..evaluate import Evaluation, settings
    from ..results import ResultsFolder, digest

    evaluation = Evaluation(models.load(), policies, problems, sampling)
    runtime = {"threads": threads, "workers": workers, "dtype": str(evaluation.pair.small.dtype)}
    kept = settings(evaluation, split=split, device=str(evaluation.pair.small.device), **runtime)
    folder = ResultsFolder(out or Path("results") / f"demo-{split}-{digest(kept)}", kept)
    try:
        _run(evaluation, folder, workers, threads or 1)
    finally:
        folder.close()
    _finish(evaluation, folder, curve)


def _run(evaluation: Evaluation, folder: ResultsFolder, workers: int, threads: int) -> None:
    """Answers what the folder has no answer to yet."""
    from ..evaluate import run
    from .terminal import progress

    jobs = evaluation.jobs()
    left = [job for job in jobs if job not in folder.rows]
    bar = progress()
    task = bar.add_task("answers", total=len(jobs), completed=len(jobs) - len(left))
    try:
        with bar:
            for row in run(evaluation, left, workers=workers, threads=threads):
                folder.add(row)
                bar.advance(task)
    except KeyboardInterrupt:
        done = sum(job in folder.rows for job in jobs)
        raise KeyboardInterrupt(
            f"{done} of {len(jobs)} answers are in {folder.folder}; the same command goes on"
        ) from None


def _finish(evaluation: Evaluation, folder: ResultsFolder, curve: Sequence[str]) -> None:
    from ..results import markdown, summarise
    from .terminal import console

    rows = [folder.rows[job] for job in evaluation.jobs()]
    summary = summarise(rows, curve=curve, order=list(evaluation.routers))
    folder.write_summary(summary)
    screen = console()
    if screen.is_terminal:
        for table in _tables(summary):
            screen.print(table)
    else:
        print(markdown(summary))
    print(f"steer: results are in {folder.folder}", file=sys.stderr)


def _tables(summary: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from ..results import COLUMNS, cells

    tables: list[RenderableType] = []
    for domain in dict.fromkeys(record["domain"] for record in summary):
        here = [record for record in summary if record["domain"] == domain]
        title = Text(f"{domain}, {max(record['n'] for record in here)} problems", style="bold")
        table = Table(title=title, title_justify="left", box=None, header_style="dim")
        table.add_column(COLUMNS[0], overflow="fold")
        for column in COLUMNS[1:]:
            table.add_column(column, justify="right")
        for record in here:
            chance = record["random_accuracy_at_share"]
            better = chance is not None and record["accuracy"] > chance
            row = [Text(cell) for cell in cells(record)]
            row[1].stylize("green" if better else "")
            table.add_row(*row)
        tables += [table, ""]
    return tables


def _routers(
    specs: str, shares: str, models: Models, calibration: Path | None
) -> tuple[dict[str, Policy], list[str]]:
    """Policies by the names under which they were asked for, and those of the random curve."""
    from ..evaluate import CONTROL, with_controls

    names = list(dict.fromkeys(part.strip() for part in specs.split(",") if part.strip()))
    if not names:
        raise SteerError("no routers: give at least one, as in --routers small,large,steer")
    policies: dict[str, Policy] = {}
    for name in names:
        if name != CONTROL:
            own = (
                calibration
                if name.partition(":")[0] == "steer" and "threshold=" not in name
                else None
            )
            policies[name] = make_policy(name, models, own)
    if CONTROL not in names:
        return policies, []
    points = [_share(part) for part in shares.split(",") if part.strip()]
    with_random = with_controls(policies, points)
    curve = ["small", "large", *(f"{CONTROL}:share={point:g}" for point in points)]
    return with_random, curve


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise SteerError(f"--random-shares must be numbers between 0 and 1, got {text.strip()!r}")
    return value


def _problems(domains: str, n: int, split: str) -> list[Problem]:
    from ..demo import DOMAINS
    from ..demo import problems as stream

    if n < 1:
        raise SteerError(f"--n must be at least 1, got {n}")
    names = list(dict.fromkeys(part.strip() for part in domains.split(",") if part.strip()))
    unknown = [name for name in names if name not in DOMAINS]
    if unknown or not names:
        wrong = f"unknown domain {unknown[0]!r}" if unknown else "no domains"
        raise SteerError(f"{wrong}: choose from {', '.join(DOMAINS)}")
    try:
        return [problem for name in names for problem in stream(name, n, split=split)]
    except ValueError as error:
        raise SteerError(str(error)) from error
