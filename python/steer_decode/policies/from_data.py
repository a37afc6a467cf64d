"""A router that a file names, which is data.

A model's ``generation_config.json``, say, which its author wrote. What comes with a model is data.
It may name a router that is built in and set numbers of it, and words of which there is a list
here. It can name no function, no file and no list of writers: those are for the user's own call and
command line, which :func:`~steer_decode.policies.parse_policy` reads. Nothing here calls that one,
and no setting is handed on that is not a number, a switch, or a word of the list.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import get_args

from ..core.drafting import Rule
from ..core.signals import SIGNALS
from ..errors import SteerError
from . import POLICIES, Policy, RouterSpec
from .both_sides import OVER as OVER_TOKENS
from .fitted.both_sides import COST_NAMES
from .query_cascade import OVER as OVER_STEPS
from .rewards import LIKELIHOOD
from .settings import SWITCHES, settings_of
from .spec_reason import DEFAULTS as GRADES

WORDS: Mapping[str, Collection[str]] = {
    "signal": tuple(SIGNALS),
    "tokens": ("all", "math"),
    "grade": tuple(GRADES),
    "reward": (LIKELIHOOD,),
    "over": tuple(dict.fromkeys((*OVER_TOKENS, *OVER_STEPS))),
    "cost": tuple(COST_NAMES),
    "fix": ("token", "step"),
    "accept": get_args(Rule),
    "k": ("auto",),
    "part": ("auto",),
}
"""Every word that data may set, by setting."""

_NUMBERS_TOO = ("k", "part")

# What a router reads or runs, and lists: never from data, whatever the value looks like.
_NEVER = ("calibration", "path", "strings", "writers")
_WAY = "name it in the call, as steer={'router': ...} or Router(pair, policy)"


def parse_data_policy(text: str) -> Policy:
    """A built-in router from a text that is data.

    See :func:`data_spec`.

    Raises:
        SteerError: as there; or a router that needs a file.
    """
    spec = data_spec(text)
    return spec.policy(**spec.settings)


def data_spec(text: str, source: str = "a file", way: str = f"the user: {_WAY}") -> RouterSpec:
    """What a text that is data says of a router.

    The router is one that is built in.

    ``NAME`` or ``NAME:SETTING=VALUE:...``.

    Args:
        text: the specification; values are finite numbers, "true", "false", and :data:`WORDS`.
        source, way: where it is from, and who names code and files there; for messages.

    Raises:
        SteerError: an unknown name or setting, or a value of another kind.
    """
    name, *parts = text.split(":")
    if name not in POLICIES:
        raise SteerError(f"unknown router {name!r}: choose from {', '.join(POLICIES)}")
    known = [key for key in settings_of(POLICIES[name], name) if key not in _NEVER]
    settings: dict[str, float | bool | str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if key in _NEVER or not equals or key not in known:
            choice = f"it takes {', '.join(known)}" if known else "it takes none"
            raise SteerError(
                f"router {name!r} takes no {part!r} from {source}: {choice} (as KEY=VALUE); what "
                f"is read or run is named by {way}"
            )
        word = key in WORDS and (key not in _NUMBERS_TOO or value in WORDS[key])
        settings[key] = _word(name, key, value, source, way) if word else _number(name, key, value)
    return RouterSpec(name, POLICIES[name], settings)


def _word(name: str, key: str, value: str, source: str, way: str) -> str:
    if value not in WORDS[key]:
        raise SteerError(
            f"{key} of router {name!r} must be one of {', '.join(WORDS[key])} where {source} sets "
            f"it, got {value!r}; others are for {way}"
        )
    return value


def _number(name: str, key: str, value: str) -> float | bool:
    if value in SWITCHES:
        return SWITCHES[value]
    if value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SteerError(f"{key} of router {name!r} must be a finite number, got {value!r}")
    return number
