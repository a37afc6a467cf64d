"""Options that several commands share."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SteerError

_MODELS = "Models"
_SAMPLING = "Sampling"


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


PairOption = Annotated[
    str | None,
    typer.Option("--pair", help="`demo`: the pair that is shipped.", rich_help_panel=_MODELS),
]
SmallOption = Annotated[
    str | None,
    typer.Option("--small", help="Small model: hub id or folder.", rich_help_panel=_MODELS),
]
LargeOption = Annotated[
    str | None,
    typer.Option("--large", help="Large model: hub id or folder.", rich_help_panel=_MODELS),
]
SmallUrlOption = Annotated[
    str | None,
    typer.Option("--small-url", help="vLLM server of the small model.", rich_help_panel=_MODELS),
]
LargeUrlOption = Annotated[
    str | None,
    typer.Option("--large-url", help="vLLM server of the large model.", rich_help_panel=_MODELS),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="With servers: hub id or folder of the tokenizer of both; by default the models' own.",
        rich_help_panel=_MODELS,
    ),
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype",
        help="Of the weights; by default the checkpoint's on a GPU, float32 on a CPU.",
        rich_help_panel=_MODELS,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="`cpu`, `cuda`, `cuda:1`, or one for each model, `cuda:0,cuda:1`; the GPU if any.",
        rich_help_panel=_MODELS,
    ),
]
OverlapOption = Annotated[
    bool,
    typer.Option(
        "--overlap",
        help="The large model works while the small one writes: for two devices, or cores for two.",
        rich_help_panel=_MODELS,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="CPU threads; 1 for the demo pair, whose passes are too short for more.",
        rich_help_panel=_MODELS,
    ),
]
MaxNewTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        help="Most tokens of an answer; 128 for the demo pair, else 1024.",
        rich_help_panel=_SAMPLING,
    ),
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", help="0 is greedy.", rich_help_panel=_SAMPLING)
]
TopPOption = Annotated[float, typer.Option("--top-p", rich_help_panel=_SAMPLING)]
TopKOption = Annotated[int, typer.Option("--top-k", help="0 is all.", rich_help_panel=_SAMPLING)]
MinPOption = Annotated[float, typer.Option("--min-p", rich_help_panel=_SAMPLING)]
SeedOption = Annotated[int, typer.Option("--seed", rich_help_panel=_SAMPLING)]

ChatTemplateOption = Annotated[
    bool | None,
    typer.Option(
        "--chat/--raw",
        help="Put a prompt through the chat template; by default if there is one, and it has not "
        "been through it.",
        rich_help_panel=_MODELS,
    ),
]
TemplateArgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg",
        help="`NAME=VALUE` for the chat template, the value as JSON: `enable_thinking=false`.",
        rich_help_panel=_MODELS,
    ),
]

_ROUTER = "`NAME[:KEY=VALUE...]`: steer, first-token, random, ..."

RouterOption = Annotated[str, typer.Option("--router", help=_ROUTER)]
ChatRouterOption = Annotated[
    str | None,
    typer.Option(
        "--router",
        help=f"{_ROUTER} By default steer; first-token for a pair without calibration.",
    ),
]
CalibrationOption = Annotated[
    Path | None, typer.Option("--calibration", help="Made by `steer calibrate`.")
]
GammaOption = Annotated[float | None, typer.Option("--gamma", help="steer: least posterior.")]
ThresholdOption = Annotated[
    float | None, typer.Option("--threshold", help="steer, first-token: in the signal's unit.")
]
ShareOption = Annotated[float | None, typer.Option("--share", help="random: share of steps.")]
SignalOption = Annotated[
    str | None, typer.Option("--signal", help="max-logit, max-prob, entropy or margin.")
]


def template_options(chat: bool | None, given: list[str] | None) -> dict[str, Any]:
    """Options of ``Router.stream`` from --chat, --raw and --template-arg.

    Unset ones are left out.

    Raises:
        SteerError: an argument that is not NAME=VALUE, is given twice or has no template to go to.
    """
    told: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not name.isidentifier() or not equals:
            raise SteerError(
                f"--template-arg must be NAME=VALUE, as in enable_thinking=false, got {text!r}"
            )
        if name in told:
            raise SteerError(f"--template-arg {name} is given twice: give it once")
        told[name] = _value(name, value)
    if told and chat is False:
        raise SteerError("--raw uses no chat template, and --template-arg is for one: give either")
    options: dict[str, Any] = {"chat": chat, "chat_template_kwargs": told or None}
    return {key: value for key, value in options.items() if value is not None}


def _value(name: str, text: str) -> Any:
    """A value of JSON, or a word that stands for itself."""
    try:
        return json.loads(text)
    except ValueError:
        if text in ("True", "False", "None"):  # a word that is not empty is true to a template
            right = {"None": "null"}.get(text, text.lower())
            raise SteerError(f"--template-arg {name}={text}: write {right}, as JSON does") from None
        return text


def names(text: str | None) -> list[str] | None:
    """The parts of "a,b", each once; None stays None."""
    if text is None:
        return None
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def numbers(name: str, text: str | None) -> list[int] | None:
    """The whole numbers of "1,8".

    Raises:
        SteerError: a part is none; the message names the option.
    """
    parts = names(text)
    if parts is None:
        return None
    try:
        return [int(part) for part in parts]
    except ValueError:
        raise SteerError(f"--{name} must be whole numbers, as in 1,8, got {text!r}") from None
