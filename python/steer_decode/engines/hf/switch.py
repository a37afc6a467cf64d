"""Switches of what is faster on one kind of device."""

from __future__ import annotations

import os

from ...errors import SteerError


def switched_on(variable: str) -> bool:
    """Whether ``variable`` of the environment does not say off.

    Raises:
        SteerError: it is neither "on" nor "off".
    """
    value = os.environ.get(variable, "on")
    if value not in ("on", "off"):
        raise SteerError(f"{variable} must be on or off, got {value!r}: unset it, or set either")
    return value == "on"
