"""The switch of all that is faster on a CPU."""

from __future__ import annotations

import os

from ....errors import SteerError

VARIABLE = "STEER_DECODE_CPU"


def enabled() -> bool:
    """Whether engines that are opened now use our layers.

    They do not with STEER_DECODE_CPU=off.

    Raises:
        SteerError: the variable is neither "on" nor "off".
    """
    value = os.environ.get(VARIABLE, "on")
    if value not in ("on", "off"):
        raise SteerError(f"{VARIABLE} must be on or off, got {value!r}: unset it, or set either")
    return value == "on"
