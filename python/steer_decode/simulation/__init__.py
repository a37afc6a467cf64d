"""Engines under load, reckoned from recorded answers.

A discrete-event simulation of two pools of engines. Recorded traces say what an answer asks of
either model; a pass takes as long as it was measured, or assumed. No model runs.
"""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import SteerError


def check_packages() -> None:
    """Check that the simulation's package is there.

    Raises:
        SteerError: simpy is missing.
    """
    if find_spec("simpy") is None:
        raise SteerError("a simulation needs simpy: pip install 'steer-kernels[simulate]'")
