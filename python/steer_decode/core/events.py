"""What a routed answer is: the events of a stream, and the output that they end in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .cost import Cost
from .trace import Step, Trace
from .transcript import Writer


@dataclass(frozen=True)
class TextDelta:
    """A piece of text of the open step; void if the step's StepClosed says it was discarded."""

    text: str
    token_id: int
    writer: Writer
    index: int


@dataclass(frozen=True)
class StepClosed:
    """A step has ended; ``step.discarded`` tells whether it stays."""

    step: Step


@dataclass(frozen=True)
class HandOver:
    """Another model begins to write, after reading ``prefilled`` tokens that it had not seen."""

    index: int
    writer: Writer
    prefilled: int


@dataclass(frozen=True)
class RoutedOutput:
    """An answer: its text and ids after the prompt, how it came about, and what it cost."""

    text: str
    token_ids: list[int]
    trace: Trace
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "token_ids": self.token_ids,
            "cost": self.cost.to_dict(),
            "trace": self.trace.to_dict(),
        }


@dataclass(frozen=True)
class Done:
    """The answer is complete; the last event of a stream."""

    output: RoutedOutput


Event = TextDelta | StepClosed | HandOver | Done
