"""``steer eval``: routers over problems, accuracy against cost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SteerError
from ..evaluation.records import NAME
from ..util.files import check_writable
from . import options as opt
from . import say
from .models import Models
from .routers import make_policy, wants_calibration
from .tasks import folder_name, read_seeds, read_tasks, words

DEMO_COHORT = 32
ALL = "all"

if TYPE_CHECKING:
    from ..evaluation.tasks import Task
    from ..policies import Policy


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
        list[str] | None,
        typer.Option(
            "--tasks",
            help="`demo`, `reasoning-gym:NAME[:KEY=VALUE]`, FILE.jsonl; several with commas, or "
            "the option again.",
        ),
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
    chat: opt.ChatTemplateOption = None,
    template_arg: opt.TemplateArgOption = None,
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
        str | None,
        typer.Option(
            "--cohort",
            help="Answers at a time; or several sizes to compare, as in 16,32,all.  "
            "[default: 32 for the demo pair, else 1]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of results; by default under results/.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            help="File (or folder) for what both models make of every token of every answer, read "
            "off by a prefill of each once it is whole.",
        ),
    ] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option(
            "--replay",
            help="Folder of results, or records of --record: score what routers would have done, "
            "no model runs.",
        ),
    ] = None,
) -> None:
    """Run several routers on the same problems.

    Each is set beside chance at its cost. Results go to results.jsonl in the folder of --out as
    they come, each with its steps. The same command goes on after an interruption; more routers,
    problems or seeds may be added to a folder. `steer report` makes a page of it.

    `random` stands for random routing at the shares of --random-shares and for both models alone.
    The column "random %" of a router is the accuracy of random routing at that router's own share
    of large-model tokens: a straight line between the two neighbouring random runs.

    Several sizes of --cohort are run one after another, each into a folder of its own, and set
    beside each other in group-sizes.md, .json, .png and .svg: STEER's ablation over how many
    answers its mixture is fitted to.

    With --replay nothing is run: what a cascade of whole questions would have reached is known from
    the answers of either model alone, for every signal and threshold. From records, so is lossless
    speculation with any number of drafts, and what each signal tells of an answer.

    A file of tasks has a JSON object with "prompt" and "answer" on each line; "id", "domain" and
    "difficulty" are optional. A checker of your own is a function of the text and the answer.

    Examples:

    - `steer eval --pair demo --n 300 --routers small,large,steer,first-token,random`

    - `steer eval --domains math --n 100 --temperature 0.7 --seeds 0,1,2 --routers steer,random`

    - `steer eval --small ID --large ID --tasks reasoning-gym:chain_sum --n 50 --routers random`

    - `steer eval --small ID --large ID --tasks mine.jsonl --checker mine:right --routers random`

    - `steer eval --n 128 --cohort 16,32,64,all --routers small,large,steer-cohort`

    - `steer eval --replay results/demo-test-1a2b3c4d`

    - `steer eval --n 100 --routers small,large --record records.jsonl.gz`

    - `steer eval --replay records.jsonl.gz`
    """
    if replay:
        from .replay import replay as replayed

        replayed(context, replay, out)
        return
    models = Models(pair, small, large, dtype and dtype.value, device, threads)
    asked = read_tasks(tasks or None, models, domains, n, split, checker)
    policies, curve = _routers(routers, random_shares, models, calibration)
    numbers = read_seeds(seeds)
    if temperature == 0 and len(numbers) > 1:
        say.note("at temperature 0 only `random` differs between seeds")
    sampling = {
        "max_new_tokens": models.max_new_tokens(max_new_tokens),
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        **opt.template_options(chat, template_arg),
    }
    from ..core.sampling import Sampling
    from ..evaluation.evaluate import Evaluation
    from .eval_run import Runs

    # Refuses what is out of range, before the models load.
    Sampling(temperature, top_p, top_k, min_p)
    sizes = _sizes(cohort, DEMO_COHORT if models.demo else 1, asked)
    if record is not None:
        if len(sizes) > 1:
            raise SteerError("--record keeps the answers of one run: give one size of --cohort")
        check_writable(record / NAME if record.is_dir() else record)
    kept = record is not None
    evaluation = Evaluation(models.load(), policies, asked, sampling, numbers, sizes[0], kept)
    runs = Runs(evaluation, models.names(), curve, threads, workers, record)
    name = folder_name(tasks or None, split)
    if len(sizes) == 1:
        runs.one(out, name)
    else:
        runs.several(sizes, out, name)


def _sizes(text: str | None, usual: int, tasks: Sequence[Task]) -> list[int]:
    """The sizes of --cohort, in the order given; "all" is that of the largest domain.

    Raises:
        SteerError: something else than whole numbers from 1 on and "all"; or, among several sizes,
            one that is more than there is.
    """
    largest = max(Counter(task.domain for task in tasks).values())
    found = []
    for word in words(text) if text is not None else [str(usual)]:
        if word != ALL and not (re.fullmatch(r"\d{1,9}", word, re.ASCII) and int(word)):
            raise SteerError(
                f"--cohort must be whole numbers from 1 on, or {ALL}, as in 16,32,{ALL}; "
                f"got {word!r}"
            )
        found.append(largest if word == ALL else int(word))
    if not found:
        raise SteerError(f"--cohort is empty: give a size, several as in 16,32, or {ALL}")
    over = [size for size in found if size > largest]
    if len(found) > 1 and over:
        raise SteerError(
            f"--cohort {over[0]} is more than the {largest} problems of a domain, whose largest "
            f"cohort is {ALL}: leave it out, or raise --n"
        )
    return list(dict.fromkeys(found))


def _routers(
    specs: str, shares: str, models: Models, calibration: Path | None
) -> tuple[dict[str, Policy], list[str]]:
    """Policies by the names under which they were asked for, and those of the random curve."""
    from ..evaluation.evaluate import CONTROL, with_controls
    from ..policies import split_specs

    names = split_specs(specs)
    if not names:
        raise SteerError("no routers: give at least one, as in --routers small,large,steer")
    policies: dict[str, Policy] = {}
    for name in names:
        if name != CONTROL:
            own = calibration if wants_calibration(name) else None
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
