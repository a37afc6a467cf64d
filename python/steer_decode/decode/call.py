"""What some answers ask of an engine, and its replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.transcript import Writer
from ..engines.base import Replies
from .answer import Answer


@dataclass
class RowsCall:
    """One request to an engine.

    It touches nothing but that engine and the transcripts of its answers, which wait for it.

    Attributes:
        writer: whose engine it is.
        answers: that wait, by their rows.
        ask, args: a method of the engine, and what it is given.
        marks: how far the model had read each answer before.
        replies: one for each answer, in their order.
        seconds: that it took.
    """

    writer: Writer
    answers: Mapping[int, Answer]
    ask: Callable[..., Replies[Any]]
    args: Sequence[object]
    marks: Sequence[int]
    replies: Replies[Any] = field(default_factory=list)
    seconds: float = 0.0
