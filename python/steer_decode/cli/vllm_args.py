"""``steer vllm-args``: the flags of two servers."""

from __future__ import annotations

import shlex
from enum import Enum
from typing import Annotated

import typer

from ..errors import SteerError
from . import say

_PORT = 8001


class Runner(str, Enum):
    """Model runners of vLLM."""

    auto = "auto"
    v1 = "v1"
    v2 = "v2"


def vllm_args(
    small: Annotated[
        str | None, typer.Option("--small", help="The small model: hub id or folder.")
    ] = None,
    large: Annotated[
        str | None, typer.Option("--large", help="The large model: hub id or folder.")
    ] = None,
    runner: Annotated[
        Runner,
        typer.Option("--runner", help="The servers' model runner; auto: of the vLLM that is here."),
    ] = Runner.auto,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="With the gate inside, or without.")
    ] = True,
) -> None:
    """Print how servers of vLLM are started for routing.

    Without models only the flags are printed, for a command of your own. The servers need this
    package beside vLLM, since the gate runs inside them.

    Examples:

    - `vllm serve Qwen/Qwen3-8B --port 8002 $(steer vllm-args)`

    - `steer vllm-args --small Qwen/Qwen3-0.6B --large Qwen/Qwen3-8B`

    - `steer vllm-args --runner v2` (for servers elsewhere)
    """
    from ..engines.vllm.flags import Installed, flags

    if (small is None) != (large is None):
        raise SteerError("name both models, as --small ID --large ID, or none of them")
    here = Installed.find() if runner is Runner.auto or small is not None else None
    chosen = here.runner if here and runner is Runner.auto else runner.value
    found = flags(chosen, here is not None and here.cpu, gate)  # type: ignore[arg-type]
    if here is not None:
        say.note(f"for {here.package} {here.version}, model runner {chosen.upper()}")
    if here is None or small is None or large is None:
        say.out(shlex.join(found))
        return
    for i, model in enumerate((small, large)):
        say.out(shlex.join([*here.command(model), "--port", str(_PORT + i), *found]))
