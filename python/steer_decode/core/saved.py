"""One answer as a JSON document, and back.

``steer generate`` writes it, with everything that is needed to show the answer again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..util import documents
from ..util.text import dump
from ..util.text import finite as finite
from .events import RoutedOutput
from .trace_file import ANSWER, output_of
from .transcript import WRITERS, Writer

VERSION = 1


@dataclass(frozen=True)
class SavedAnswer:
    """A routed answer, the question, and who answered.

    Attributes:
        prompt: the question as it was given.
        models: name or path of either model.
        parameters: how many parameters either has.
        output: text, ids, trace and cost.
        correct: whether the answer is right, where that can be told.
        problem: which problem of the demo was asked, as DOMAIN:INDEX.
        options: how tokens were chosen.
        active: how many parameters of either a token passes, where that is not all of them.
    """

    prompt: str
    models: Mapping[Writer, str]
    parameters: Mapping[Writer, int]
    output: RoutedOutput
    correct: bool | None = None
    problem: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    active: Mapping[Writer, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` is its inverse."""
        models: dict[Writer, dict[str, Any]]
        models = {w: {"name": self.models[w], "parameters": self.parameters[w]} for w in WRITERS}
        for writer, active in self.active.items():
            models[writer]["active"] = active
        return {
            "version": VERSION,
            "prompt": self.prompt,
            "problem": self.problem,
            "correct": self.correct,
            "models": models,
            "options": dict(self.options),
            **self.output.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SavedAnswer:
        """Read what :meth:`to_dict` wrote; Fault where it is something else."""
        return answer_of(data)


def answer_of(value: Any) -> SavedAnswer:
    """An answer from plain data; Fault where it is none."""
    data = ANSWER(value)
    return SavedAnswer(
        prompt=data["prompt"],
        models={w: data["models"][w]["name"] for w in WRITERS},
        parameters={w: data["models"][w]["parameters"] for w in WRITERS},
        output=output_of(data),
        correct=data["correct"],
        problem=data["problem"],
        options=data["options"],
        active={w: m["active"] for w, m in data["models"].items() if "active" in m},
    )


def document(answer: SavedAnswer, alone: Mapping[Writer, SavedAnswer] | None = None) -> str:
    """Make one JSON document of an answer.

    ``alone`` adds the answers of either model alone under "compare".
    """
    data = answer.to_dict()
    if alone:
        data["compare"] = {writer: other.to_dict() for writer, other in alone.items()}
    return dump(data, indent=1)


def load(path: Path) -> tuple[SavedAnswer, dict[Writer, SavedAnswer]]:
    """Read a document back.

    It holds the answer, and those of either model alone if they are there.

    Raises:
        SteerError: no such file, or not a trace.
    """
    way = "make one with `steer generate --trace FILE`"
    return documents.read(path, "trace", _loaded, "is not a trace", way)


def _loaded(value: Any) -> tuple[SavedAnswer, dict[Writer, SavedAnswer]]:
    data = documents.versioned(VERSION, documents.mapped(documents.anything))(value)
    alone = documents.mapped(answer_of, key=documents.one_of(WRITERS))(data.pop("compare", {}))
    return answer_of(data), alone
