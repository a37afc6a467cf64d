"""Where the question comes from.

And whether an answer to it can be graded.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SteerError
from ..util.files import read_text
from ..util.text import short
from . import say
from .models import Models

if TYPE_CHECKING:
    from ..demo import Problem
    from ..models.two_models import TwoModels


_MOST = 9999  # index of a problem by name; to find one, those before it are drawn


@dataclass(frozen=True)
class UserPrompt:
    """A prompt, and the demo problem that it is.

    ``task`` is that problem, where it is one.

    Attributes:
        prompt: its text.
        problem: which problem of the demo it is, as DOMAIN:INDEX.
        task: the same, for its grade.
        ids: the prompt itself, where it was given as token ids.
    """

    prompt: str
    problem: str | None = None
    task: Problem | None = None
    ids: tuple[int, ...] | None = None

    @property
    def asked(self) -> str | list[int]:
        """What the models are given."""
        return self.prompt if self.ids is None else list(self.ids)

    def shown(self, pair: TwoModels) -> UserPrompt:
        """The same with the text of its ids, if any.

        Raises:
            SteerError: ids that the models do not know.
        """
        from ..core.token_text import decode

        if self.ids is None:
            return self
        return replace(self, prompt=decode(pair.tokenizer, pair.encode(list(self.ids))))

    def grade(self, text: str) -> bool | None:
        """Whether ``text`` is right; None where that cannot be told."""
        from ..demo import grade

        if self.task is None:
            return None
        try:
            return grade(self.task, text)
        except (ValueError, KeyError, IndexError):
            return None  # It began like a problem of the demo and went on in another way.

    def unknown(self, pair: TwoModels) -> tuple[int, int]:
        """Tokens of the prompt that the models do not know.

        How many they are, and how many tokens there are.
        """
        ids = self.ids or pair.tokenizer(self.prompt, verbose=False)["input_ids"]
        return sum(i == pair.tokenizer.unk_token_id for i in ids), len(ids)

    def warn(self, pair: TwoModels) -> None:
        """Warn of words that a small vocabulary does not have."""
        missing, tokens = self.unknown(pair)
        if missing:
            say.note(
                f"{missing} of the {tokens} tokens of this prompt are unknown to the "
                "models, which read the rest only"
            )


def read_question(
    prompt: str | None,
    file: Path | None,
    problem: str | None,
    models: Models,
    ids: str | None = None,
) -> UserPrompt:
    """The question from the one place where it was given.

    Raises:
        SteerError: no place, several places, an unreadable file, an unknown problem.
    """
    given = [
        name
        for name, value in (
            ("PROMPT", prompt),
            ("--file", file),
            ("--problem", problem),
            ("--ids", ids),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise SteerError(f"the question is given twice, as {' and '.join(given)}: give it once")
    if ids is not None:
        return UserPrompt("", ids=_ids(ids))
    if problem is not None:
        return demo_problem(problem, models)
    if file is not None:
        text = read_text(file)
    elif prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise SteerError("no question: give it as an argument, with --file or --problem")
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise SteerError("standard input is not UTF-8 text") from error
    else:
        text = prompt
    # The line break at the end of a file or of echo is not part of the question.
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise SteerError("prompt is empty: give the question that is to be answered")
    return UserPrompt(text, task=recognise(text) if models.demo else None)


def _ids(text: str) -> tuple[int, ...]:
    """Whole numbers with commas or blanks between them, in brackets or not; or a file of them."""
    place = Path(text)
    listed = read_text(place) if not re.match(r"\s*[\[\d]", text) or place.is_file() else text
    words = [word for word in re.split(r"[\s,]+", listed.strip().strip("[]")) if word]
    if not words or not all(re.fullmatch(r"\d{1,9}", word, re.ASCII) for word in words):
        where = f"the file {text!r} of --ids" if listed is not text else "--ids"
        raise SteerError(f"{where} must hold token ids, as in 1,2,3, got {listed[:60]!r}")
    return tuple(map(int, words))


def demo_problem(spec: str, models: Models) -> UserPrompt:
    from ..demo import DOMAINS, problems
    from ..demo.problems.problem import DIFFICULTIES

    if not models.demo:
        names = "--small-url and --large-url" if models.remote else "--small and --large"
        raise SteerError(f"--problem asks the demo pair: leave out {names}, or give a PROMPT")
    domain, _, number = spec.partition(":")
    if domain not in DOMAINS:
        raise SteerError(f"unknown domain {domain!r}: choose from {', '.join(DOMAINS)}")
    if not re.fullmatch(r"\d*", number, re.ASCII) or len(number) > len(str(_MOST)):
        raise SteerError(
            f"the index of a problem must be a whole number up to {_MOST:,}, got {short(number)}"
        )
    index = int(number or 0)
    levels = len(DIFFICULTIES)
    try:
        # Difficulties come in turn, and only those before it of its own have to be drawn.
        task = problems(domain, index // levels + 1, difficulty=index % levels + 1)[-1]
    except ValueError as error:
        raise SteerError(str(error)) from error
    return UserPrompt(task.prompt, f"{domain}:{index}", task)


def recognise(prompt: str) -> Problem | None:
    """The demo problem that a typed prompt is.

    It is found by the word that its domain begins with.
    """
    from ..demo import Problem

    begins = {"Compute": "math", "Who": "qa", "Route": "planning"}
    domain = begins.get(prompt.split()[0])
    return None if domain is None else Problem(domain, 0, -1, prompt, "")
