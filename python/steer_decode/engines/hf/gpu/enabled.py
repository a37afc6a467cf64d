"""The switch of the layers on a GPU."""

from __future__ import annotations

import torch

from ..switch import switched_on

VARIABLE = "STEER_DECODE_GPU"
DEVICES = ("cuda",)  # tests add the CPU, where definitions stand in for the kernels


def enabled() -> bool:
    """Whether engines that are opened now use our layers.

    They do not with STEER_DECODE_GPU=off.

    Raises:
        SteerError: the variable is neither "on" nor "off".
    """
    return switched_on(VARIABLE)


def serves(device: torch.device) -> bool:
    """Whether models on a device have these layers."""
    return device.type in DEVICES
