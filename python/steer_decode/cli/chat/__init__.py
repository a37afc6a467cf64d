"""``steer chat``: a conversation whose models keep their caches.

What they have read they need not read again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import SteerError
from ...util.interruption import raising
from .. import options as opt
from ..models import Models
from ..routers import make_policy

if TYPE_CHECKING:
    from ...policies import Policy


def chat(
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    threads: opt.ThreadsOption = None,
    router: opt.ChatRouterOption = None,
    calibration: opt.CalibrationOption = None,
    gamma: opt.GammaOption = None,
    threshold: opt.ThresholdOption = None,
    share: opt.ShareOption = None,
    signal: opt.SignalOption = None,
    max_new_tokens: opt.MaxNewTokensOption = None,
    temperature: opt.TemperatureOption = 0.0,
    top_p: opt.TopPOption = 1.0,
    top_k: opt.TopKOption = 0,
    min_p: opt.MinPOption = 0.0,
    seed: opt.SeedOption = 0,
    chat: opt.ChatTemplateOption = None,
    template_arg: opt.TemplateArgOption = None,
    system: Annotated[
        str | None, typer.Option("--system", help="Told to the models before the conversation.")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Append each answer with its trace, as a line of JSON."),
    ] = None,
) -> None:
    """Talk with a small and a large model.

    Both keep what they have read between turns. Each answer is written in the colours of its
    writers, as it comes. Lines that begin with `/` are commands; `/help` lists them. Ctrl-C stops
    an answer, Ctrl-D leaves. From a pipe, each line of standard input is a turn, and standard
    output is the answers as plain text.

    Examples:

    - `steer chat`

    - `steer chat --pair demo --router first-token:threshold=0.4`

    - `steer chat --small Qwen/Qwen3-0.6B --large Qwen/Qwen3-8B --threshold 24 --log chat.jsonl`

    - `printf "/problem math:1\\n/problem qa:2\\n" | steer chat`
    """
    models = Models(pair, small, large, dtype and dtype.value, device, threads)
    settings = {"gamma": gamma, "threshold": threshold, "share": share, "signal": signal}
    options = {
        "max_new_tokens": models.max_new_tokens(max_new_tokens),
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "seed": seed,
    }
    template = opt.template_options(chat, template_arg)
    _check_log(log)
    from ..view.terminal import console

    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    screen = console()
    if interactive:
        screen.print("loading the models ...", style="dim")
    policy = _policy(router, models, calibration, settings)
    from ...decode.router import Router
    from .conversations import Chat, check_options
    from .room import Room

    check_options(options)
    talk = Chat(Router(models.load(), policy), models.names(), options, system, **template)
    room = Room(talk, models, calibration, log, screen, interactive)
    with raising():  # Ctrl-C stops an answer, and what is typed at a terminal is given back to it.
        status = room.run()
    raise typer.Exit(status)


def _policy(
    router: str | None, models: Models, calibration: Path | None, settings: Mapping[str, object]
) -> Policy:
    if router is None:
        known = models.demo or calibration is not None
        given = [settings[name] for name in ("gamma", "threshold") if settings[name] is not None]
        router = "steer" if known or given else "first-token"
    return make_policy(router, models, calibration, **settings)


def _check_log(log: Path | None) -> None:
    if log is None:
        return
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise SteerError(f"cannot write --log {str(log)!r}: {error.strerror}") from error
