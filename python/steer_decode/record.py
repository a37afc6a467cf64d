"""One answer with everything needed to show it again: the JSON document of ``steer generate``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from .cost import Cost, Usage
from .errors import SteerError
from .events import RoutedOutput
from .trace import Step, Trace
from .transcript import WRITERS, Writer

VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
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
    def from_dict(cls, data: Mapping[str, Any]) -> Answer:
        """Reads what :meth:`to_dict` wrote; KeyError or TypeError where it is something else."""
        usage: dict[str, Any] = {w: _make(Usage, data["cost"][w]) for w in WRITERS}
        steps = [_make(Step, step) for step in data["trace"]["steps"]]
        for step in steps:
            step.values = [math.nan if value is None else value for value in step.values]
        trace = _make(Trace, {**data["trace"], "steps": steps})
        return cls(
            prompt=data["prompt"],
            models={w: data["models"][w]["name"] for w in WRITERS},
            parameters={w: data["models"][w]["parameters"] for w in WRITERS},
            output=RoutedOutput(
                data["text"], data["token_ids"], trace, _make(Cost, {**data["cost"], **usage})
            ),
            correct=data["correct"],
            problem=data["problem"],
            options=data["options"],
            active={w: m["active"] for w, m in data["models"].items() if "active" in m},
        )


def document(answer: Answer, alone: Mapping[Writer, Answer] | None = None) -> str:
    """One JSON document; ``alone`` adds the answers of either model alone under "compare"."""
    data = answer.to_dict()
    if alone:
        data["compare"] = {writer: other.to_dict() for writer, other in alone.items()}
    return json.dumps(finite(data), ensure_ascii=False, allow_nan=False, indent=1)


def load(path: Path) -> tuple[Answer, dict[Writer, Answer]]:
    """Reads a document back: the answer, and those of either model alone if they are there.

    Raises:
        SteerError: no such file, or not a trace.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']}, expected {VERSION}")
        alone = {w: Answer.from_dict(other) for w, other in data.get("compare", {}).items()}
        return Answer.from_dict(data), alone
    except OSError as error:
        raise SteerError(f"cannot read trace {str(path)!r}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SteerError(
            f"{str(path)!r} is not a trace ({type(error).__name__}: {error}): "
            "make one with `steer generate --trace FILE`"
        ) from error


def _make(kind: type[T], data: Mapping[str, Any]) -> T:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in data.items() if key in known})


def finite(data: Any) -> Any:
    """JSON has no infinity and no NaN (a margin may be infinite): they become null."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
