"""The switch of all that is faster on a CPU."""

from __future__ import annotations

from ..switch import switched_on

VARIABLE = "STEER_DECODE_CPU"


def enabled() -> bool:
    """Whether engines that are opened now use our layers.

    They do not with STEER_DECODE_CPU=off.

    Raises:
        SteerError: the variable is neither "on" nor "off".
    """
    return switched_on(VARIABLE)
