"""A policy that takes an answer back whole."""

from __future__ import annotations

from typing import Any

from steer_decode import Policy, Step, Trace


class Impatient(Policy):
    """Restarts behind the step with a given index, if the small model wrote it."""

    name = "impatient"
    restarts = True

    def __init__(self, index: int) -> None:
        self.index = index

    def judge(self, step: Step, trace: Trace) -> Any:
        assert trace.kept[-1] is step
        return "restart" if (step.writer, step.index) == ("small", self.index) else step.writer
