"""``steer eval``: routers over problems, accuracy against cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SteerError
from . import options as opt
from .session import Models, make_policy
from .tasks import folder_name, read_seeds, read_tasks, words

DEMO_COHORT = 32

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..evaluate import Evaluation
    from ..policies import Policy
    from ..results import ResultsFolder


def evaluate(
    context: typer.Context,
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    threads: opt.ThreadsOption = 1,
    domains: Annotated[
        str, typer.Option("--domains", help="Of the demo: some of math, qa, planning.")
    ] = "math,qa,planning",
    n: Annotated[
        int | None,
        typer.Option("--n", help="Problems of each domain; by default 300, or a whole file."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="test, calibration or train.")] = "test",
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", help="`demo`, `reasoning-gym:NAME[:KEY=VALUE]`, FILE.jsonl."),
    ] = None,
    checker: Annotated[
        str | None,
        typer.Option("--checker", help="For files: math-verify (default), exact, MODULE:FUNCTION."),
    ] = None,
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
    seeds: Annotated[
        str,
        typer.Option(
            "--seeds", help="As in 0,1,2: each problem once with each.", rich_help_panel="Sampling"
        ),
    ] = "0",
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes; more than one slows each a little.")
    ] = 1,
    cohort: Annotated[
        int | None,
        typer.Option(
            "--cohort", min=1, help="Answers at a time.  [default: 32 for the demo pair, else 1]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of results; by default under results/.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            help="Folder of results: sweep query cascades over its small and large runs, no model.",
        ),
    ] = None,
) -> None:
    """Run several routers on the same problems and set each beside chance at its cost.

    Results go to results.jsonl in the folder of --out as they come, each with its steps. The same
    command goes on after an interruption; more routers, problems or seeds may be added to a folder.
    `steer report` makes a page of it.

    `random` stands for random routing at the shares of --random-shares and for both models alone.
    The column "random %" of a router is the accuracy of random routing at that router's own share
    of large-model tokens: a straight line between the two neighbouring random runs.

    With --replay nothing is run: what a cascade of whole questions would have reached is known from
    the answers of either model alone, for every signal and threshold.

    A file of tasks has a JSON object with "prompt" and "answer" on each line; "id", "domain" and
    "difficulty" are optional. A checker of your own is a function of the text and the answer.

    Examples:

    - `steer eval --pair demo --n 300 --routers small,large,steer,first-token,random`

    - `steer eval --domains math --n 100 --temperature 0.7 --seeds 0,1,2 --routers steer,random`

    - `steer eval --small ID --large ID --tasks reasoning-gym:chain_sum --n 50 --routers random`

    - `steer eval --small ID --large ID --tasks mine.jsonl --checker mine:right --routers random`

    - `steer eval --replay results/demo-test-1a2b3c4d`
    """
    if replay is not None:
        from .replay import replay as replayed

        replayed(context, replay, out)
        return
    models = Models(pair, small, large, dtype and dtype.value, device, threads)
    asked = read_tasks(tasks, models, domains, n, split, checker)
    policies, curve = _routers(routers, random_shares, models, calibration)
    numbers = read_seeds(seeds)
    if temperature == 0 and len(numbers) > 1:
        print("steer: at temperature 0 only `random` differs between seeds", file=sys.stderr)
    sampling = {
        "max_new_tokens": models.max_new_tokens(max_new_tokens),
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
    }
    from ..evaluate import Evaluation, settings
    from ..results import ResultsFolder, digest
    from ..sampling import Sampling

    Sampling(
        temperature, top_p, top_k, min_p
    )  # refuses what is out of range, before the models load
    together = cohort or (DEMO_COHORT if models.demo else 1)
    evaluation = Evaluation(models.load(), policies, asked, sampling, numbers, together)
    evaluation.check()
    _warn(evaluation)
    first = evaluation.pair.small
    runtime = {
        "threads": threads,
        "workers": workers,
        "cohort": together,
        "device": str(first.device),
    }
    kept = settings(evaluation, models.names(), dtype=str(first.dtype), **runtime)
    name = f"{folder_name(tasks, split)}-{digest(kept)}"
    folder = ResultsFolder(out or Path("results") / name, kept, evaluation.problems())
    try:
        _run(evaluation, folder, workers, threads or 1)
    finally:
        folder.close()
    _finish(evaluation, folder, curve)


def _warn(evaluation: Evaluation) -> None:
    """Says so where models of few words are asked about others."""
    pair = evaluation.pair
    ids = [i for task in evaluation.tasks for i in pair.encode(task.prompt)]
    missing = sum(i == pair.tokenizer.unk_token_id for i in ids)
    if missing:
        print(
            f"steer: {missing} of the {len(ids)} tokens of the prompts are unknown to the models, "
            "which read the rest only",
            file=sys.stderr,
        )


def _run(evaluation: Evaluation, folder: ResultsFolder, workers: int, threads: int) -> None:
    """Answers what the folder has no answer to yet."""
    from ..evaluate import run
    from .terminal import progress

    jobs = evaluation.jobs()
    done = sum(job in folder.rows for job in jobs)
    bar = progress()
    task = bar.add_task("answers", total=len(jobs), completed=done)
    groups = evaluation.groups(folder.rows)
    try:
        with bar:
            for row in run(evaluation, groups, workers=workers, threads=threads):
                if row.key not in folder.rows:
                    folder.add(row)
                    bar.advance(task)
    except KeyboardInterrupt:
        done = sum(job in folder.rows for job in jobs)
        raise KeyboardInterrupt(
            f"{done} of {len(jobs)} answers are in {folder.folder}; the same command goes on"
        ) from None


def _finish(evaluation: Evaluation, folder: ResultsFolder, curve: Sequence[str]) -> None:
    from ..summary import markdown, summarise, write
    from .terminal import console

    rows = [folder.rows[job] for job in evaluation.jobs()]
    summary = summarise(rows, curve=curve, order=list(evaluation.routers))
    write(folder.folder, summary)
    screen = console()
    if screen.is_terminal:
        for table in _tables(summary):
            screen.print(table)
    else:
        print(markdown(summary))
    failed = [row for row in rows if row.error]
    if failed:
        one = failed[0]
        print(
            f"steer: the checker failed on {len(failed)} of {len(rows)} answers, which count as "
            f"wrong; first on {one.domain}:{one.problem} ({one.router}, seed {one.seed}): "
            f"{' '.join(one.error.split())}",
            file=sys.stderr,
        )
    place = folder.folder
    print(f"steer: results are in {place}; `steer report {place}` makes a page", file=sys.stderr)


def _tables(summary: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from ..summary import COLUMNS, cells

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

    names = words(specs)
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
