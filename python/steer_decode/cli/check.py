"""``steer check``: whether two models fit.

Neither is loaded.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SteerError
from . import options as opt
from . import say
from .check_servers import check_servers
from .models import DEMO, Models, quiet

if TYPE_CHECKING:
    from ..preflight import Fit

DOES_NOT_FIT = 2
MOST = 2**31


def check(
    small: Annotated[
        str | None, typer.Argument(help="The small model: hub id or folder.", show_default=False)
    ] = None,
    large: Annotated[
        str | None, typer.Argument(help="The large model: hub id or folder.", show_default=False)
    ] = None,
    pair: opt.PairOption = None,
    small_url: opt.SmallUrlOption = None,
    large_url: opt.LargeUrlOption = None,
    tokenizer: opt.TokenizerOption = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", help="Tokens of an answer, prompt included; 4096, or what both hold."
        ),
    ] = None,
    cohort: Annotated[int, typer.Option("--cohort", help="Answers at a time.")] = 1,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Load the weights too: what is served exactly, and how often the two agree.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether two models fit, without loading a weight.

    And what they will cost. Read are their configs and tokenizers only. Exit status 0 if they fit,
    2 if not.

    Examples:

    - `steer check Qwen/Qwen3-1.7B Qwen/Qwen3-14B`

    - `steer check ./small ./large --context 32768 --cohort 16 --dtype bfloat16`

    - `steer check --pair demo --json`

    - `steer check --pair demo --probe` (does speculation pay for this pair?)

    - `steer check --small-url URL --large-url URL` (two vLLM servers: logits, tokens, the gate)
    """
    if small_url is not None or large_url is not None:
        given = dtype.value if dtype else None
        servers = Models(pair, small, large, given, device, None, small_url, large_url, tokenizer)
        check_servers(servers, as_json)
        return
    models = _models(small, large, pair, dtype, device)
    _check_numbers(context, cohort)
    quiet()
    fit = _examine(models, context, cohort, probe)
    if as_json:
        from ..util.text import dump

        say.out(dump(fit.to_dict(), indent=1))
    else:
        from .view.fit import page
        from .view.terminal import console

        screen = console()
        for part in page(fit):
            screen.print(part)
    if not fit.fits:
        sys.stdout.flush()
        raise typer.Exit(DOES_NOT_FIT)


def _models(
    small: str | None,
    large: str | None,
    pair: str | None,
    dtype: opt.Dtype | None,
    device: str | None,
) -> Models:
    """
    Raises:
        SteerError: no pair, half a pair, or two.
    """
    if small is None and pair is None:
        raise SteerError(f"name two models, as in steer check SMALL LARGE, or give --pair {DEMO}")
    if small is not None and pair is not None:
        raise SteerError("give either two models or --pair, not both")
    if small is not None and large is None:
        raise SteerError(f"{small!r} is given alone: name the large model behind it")
    return Models(pair, small, large, dtype.value if dtype else None, device)


def _check_numbers(context: int | None, cohort: int) -> None:
    """
    Raises:
        SteerError: one that is below 1, or so large that nothing can hold it.
    """
    for name, number in (("context", context), ("cohort", cohort)):
        if number is not None and not 1 <= number <= MOST:
            raise SteerError(f"--{name} must be at least 1 and at most {MOST:,}, got {number}")


def _examine(models: Models, context: int | None, cohort: int, probe: bool) -> Fit:
    from ..models.loading import chosen_dtype
    from ..models.pair import placement
    from ..preflight import examine, read_side

    if isinstance(models.devices, tuple):
        raise SteerError(
            f"--device {models.device}: what fits is reckoned for one device; name one of them"
        )
    device, dtype = placement(models.device, chosen_dtype(models.dtype, None))
    small, large, more = models.sources()
    names = models.names()
    fit = examine(
        read_side("small", small, dtype, name=names["small"], **more),
        read_side("large", large, dtype, name=names["large"], **more),
        device,
        context,
        cohort,
    )
    if not (probe and fit.fits):
        return fit
    if models.demo:
        from ..demo import DOMAINS, problems

        # It knows nothing but its own problems.
        prompts = [p.prompt for domain in DOMAINS for p in problems(domain, 4, split="calibration")]
        return fit.probed(dtype, prompts, **more)
    return fit.probed(dtype, **more)
