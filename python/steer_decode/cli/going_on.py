"""``steer generate --resume FILE``: a broken answer goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ServerError, SteerError
from ..util.text import short
from .prompt import UserPrompt, demo_problem

if TYPE_CHECKING:
    from ..core.saved import SavedAnswer
    from ..decode.stream import RoutedStream
    from ..models.two_models import TwoModels
    from .models import Models

_OPTIONS = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 0}


def broken_answer(file: Path) -> SavedAnswer:
    """The answer of a trace that may go on.

    Raises:
        SteerError: there is no such file, or it holds something else, or an answer that has ended.
    """
    from ..core.saved import load
    from ..decode.resumed import GOES_ON

    saved, _ = load(file)
    reason = saved.output.trace.stop_reason
    if reason not in GOES_ON:
        raise SteerError(
            f"--resume {str(file)!r} holds an answer that has ended ({reason or 'unknown'}): there "
            "is nothing to go on with, so leave it out and ask again"
        )
    return saved


def resumed(
    file: Path | None, questions: Sequence[object], template: Mapping[str, Any]
) -> SavedAnswer | None:
    """The answer that is to go on, if any.

    Raises:
        SteerError: it cannot be; or a question, or what a template is told, beside it.
    """
    if file is None:
        return None
    if any(each is not None for each in questions) or template:
        raise SteerError(
            f"--resume {str(file)!r} goes on with the question that was asked: leave out PROMPT, "
            "--file, --problem, --ids and what is told a template"
        )
    return broken_answer(file)


def question_of(saved: SavedAnswer, models: Models) -> UserPrompt:
    """The question that was asked, as token ids."""
    task = demo_problem(saved.problem, models).task if saved.problem and models.demo else None
    return UserPrompt(saved.prompt, saved.problem, task, tuple(saved.output.trace.prompt_ids))


def options_of(saved: SavedAnswer, file: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """How tokens were chosen, and go on being chosen.

    Args:
        saved: the answer.
        file: that it was in.
        given: on the command line; None, or the default of a command, where nothing was.

    Raises:
        SteerError: an option that was another one.
    """
    kept = {name: saved.options.get(name, usual) for name, usual in _OPTIONS.items()}
    kept["max_new_tokens"] = saved.options.get("max_new_tokens", 1024)
    for name, value in given.items():
        if name in kept and value not in (None, _OPTIONS.get(name), kept[name]):
            raise SteerError(
                f"--{name.replace('_', '-')} is {value}, and the answer of --resume {str(file)!r} "
                f"was begun with {short(kept[name])}: leave it out"
            )
    return kept


def check_models(saved: SavedAnswer, file: Path, pair: TwoModels) -> None:
    """Refuse models of other sizes.

    Raises:
        SteerError: they have other numbers of parameters.
    """
    for writer, shape in pair.shapes.items():
        if shape.parameters != saved.parameters[writer]:
            raise SteerError(
                f"--resume {str(file)!r} is an answer of a {writer} model of "
                f"{saved.parameters[writer]:,} parameters, and this one has {shape.parameters:,}: "
                "give the models that wrote it"
            )


@dataclass
class Kept:
    """A trace file that is written as the answer grows.

    Attributes:
        file: None for none.
        least: tokens below which it is not written again: what is in it already has more.
        early: it is written at the end of each step.
        document: makes what is written.
    """

    file: Path | None
    least: int = 0
    early: bool = False
    document: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, file: Path | None, broken: SavedAnswer | None, early: bool) -> Kept:
        """Where an answer is written to.

        It goes on with ``broken``, if with anything.
        """
        if broken is None:
            return cls(file, early=early)
        return cls(file, sum(len(step.token_ids) for step in broken.output.trace.steps), True)

    def step(self, stream: RoutedStream) -> None:
        """A step has closed."""
        tokens = sum(len(step.token_ids) for step in stream.trace.steps)
        if self.early and tokens >= self.least:
            self.write()

    def write(self) -> None:
        """Put the answer so far into the file."""
        from ..util.files import write_whole

        if self.file is not None:
            write_whole(self.file, self.document() + "\n")

    def end(self, stream: RoutedStream) -> None:
        """The answer has ended, in whatever way.

        What is in the file is not cut short.
        """
        tokens = sum(len(step.token_ids) for step in stream.trace.steps)
        if tokens >= self.least or not stream.trace.stop_reason:
            self.write()

    def told(self, error: ServerError) -> ServerError:
        """``error``, with the way to go on."""
        if self.file is None:
            return ServerError(f"{error}; --trace FILE would have kept it")
        return ServerError(f"{error}: the same command with --resume {self.file} does")
