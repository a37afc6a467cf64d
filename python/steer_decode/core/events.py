"""The events of a stream, and the output behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .cost import Cost
from .log_probs import LogProbs
from .trace import Step, Trace
from .transcript import Writer


@dataclass(frozen=True)
class TextDelta:
    """A piece of text of the open step.

    It is void if the step's StepClosed says that the step was discarded. ``log_probs`` are those of
    the token, where they were asked for.
    """

    text: str
    token_id: int
    writer: Writer
    index: int
    log_probs: LogProbs | None = None


@dataclass(frozen=True)
class StepClosed:
    """A step has ended; ``step.discarded`` tells whether it stays."""

    step: Step


@dataclass(frozen=True)
class HandOver:
    """Another model begins to write.

    It has read ``prefilled`` tokens before, which it had not seen.
    """

    index: int
    writer: Writer
    prefilled: int


@dataclass(frozen=True)
class RoutedOutput:
    """An answer, how it came about, and what it cost.

    Text and ids are those after the prompt.
    """

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


@dataclass(frozen=True)
class Failed:
    """The answer has ended by an error.

    What was written until then stays in its output.
    """

    error: Exception


Event = TextDelta | StepClosed | HandOver | Done | Failed
