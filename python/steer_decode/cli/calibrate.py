"""``steer calibrate``: what the step scores of a pair look like, for the steer router."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SteerError
from . import options as opt
from .session import Models, check_writable, read_text

if TYPE_CHECKING:
    from rich.table import Table

    from ..calibration import Calibration


def calibrate(
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    threads: opt.ThreadsOption = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help='One prompt a line, or JSON lines with "prompt".'),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Demo problems of each domain.")] = 200,
    signal: Annotated[
        str, typer.Option("--signal", help="max-logit, max-prob, entropy or margin.")
    ] = "max-logit",
    max_new_tokens: opt.MaxNewTokensOption = None,
    temperature: opt.TemperatureOption = 0.0,
    seed: opt.SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="By default the demo's own calibration.")
    ] = None,
) -> None:
    """Run a pair over prompts, fit two Gaussians to its step scores, and save them.

    Each step is written by either model at even odds. A hundred prompts or more, like those that
    will be asked, make a calibration.

    Examples:

    - `steer calibrate --pair demo --signal margin --out margin.json`

    - `steer calibrate --small ID --large ID --prompts questions.txt --out pair.json`
    """
    from .. import calibrate as calibration
    from ..signals import get_signal
    from .terminal import console, progress

    models = Models(pair, small, large, dtype and dtype.value, device, threads)
    texts = _prompts(prompts, n, models)
    get_signal(signal)
    if out is None:
        if not models.demo:
            raise SteerError("--out is missing: say where the calibration of this pair is to go")
        out = Path(__file__).parents[1] / "demo" / "calibration.json"
    check_writable(out)
    loaded = models.load()
    with progress() as bar:
        task = bar.add_task("prompts", total=len(texts))
        result = calibration.calibrate(
            loaded,
            texts,
            signal=signal,
            max_new_tokens=models.max_new_tokens(max_new_tokens),
            temperature=temperature,
            seed=seed,
            progress=lambda: bar.advance(task),
        )
    result.save(out)
    screen = console()
    screen.print(_table(result))
    screen.print(f"calibration of {len(texts)} prompts is in {out}", markup=False, soft_wrap=True)


def _prompts(path: Path | None, n: int, models: Models) -> list[str]:
    if path is not None:
        lines = [line for line in read_text(path).splitlines() if line.strip()]
        if not lines:
            raise SteerError(f"{str(path)!r} holds no prompts: give one a line")
        return [_prompt(line, number, path) for number, line in enumerate(lines, 1)]
    if not models.demo:
        raise SteerError("--prompts is missing: give a file with questions for this pair")
    from ..demo import DOMAINS, problems

    if n < 1:
        raise SteerError(f"--n must be at least 1, got {n}")
    try:
        return [p.prompt for name in DOMAINS for p in problems(name, n, split="calibration")]
    except ValueError as error:
        raise SteerError(str(error)) from error


def _prompt(line: str, number: int, path: Path) -> str:
    if not line.lstrip().startswith("{"):
        return line
    try:
        return str(json.loads(line)["prompt"])
    except (ValueError, KeyError) as error:
        raise SteerError(
            f'prompt {number} of {str(path)!r} is neither a text nor JSON with a "prompt"'
        ) from error


def _table(calibration: Calibration) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="dim")
    table.add_column("written by")
    for column in ("step", "scores", "confident %", "unconfident", "sd", "confident", "sd"):
        table.add_column(column, justify="right")
    for writer, counts in calibration.counts.items():
        for key, number in sorted(counts.items(), key=lambda item: item[0] % 100):
            step = "all" if key < 0 else f"{key}+" if key == 4 else str(key)
            fit = calibration.fits[writer].get(key)
            figures = (
                ["no fit"]
                if fit is None
                else [
                    f"{100 * fit.weight_c:.0f}",
                    f"{fit.mean_u:.2f}",
                    f"{fit.var_u**0.5:.2f}",
                    f"{fit.mean_c:.2f}",
                    f"{fit.var_c**0.5:.2f}",
                ]
            )
            table.add_row(writer, step, str(number), *figures)
    return table
