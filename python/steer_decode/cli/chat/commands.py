"""The commands of ``steer chat``: lines that begin with ``/``."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from ...errors import SteerError
from ...util.files import check_writable, user_path, write_whole
from ...util.text import count
from ..models import Models
from ..prompt import UserPrompt, demo_problem
from ..routers import make_policy, wants_calibration
from ..view.answer import summary
from ..view.trace import TraceView
from .conversations import Chat, check_options

_DRAWN = 200  # problems of a domain among which one is drawn

_FIGURES = (
    "Below an answer: the share of its tokens that the large model (L) wrote; how often the "
    "writing passed from one model to the other; the FLOPs of what was generated as papers count "
    "them (prefill is free), beside L writing as many tokens alone; tokens per second; and how "
    "many tokens of the conversation each model (S, L) had kept and did not read again."
)


class Leave(Exception):
    """The user wants to go."""


class _Command(NamedTuple):
    argument: str
    help: str
    run: Callable[[str], None]


class Commands:
    """The commands of one chat.

    Args:
        chat: the conversation.
        models: as they were asked for.
        calibration: of the pair, for routers that want one.
        say: shows what is said of a command.
        answer: answers a question, and shows how.
    """

    def __init__(
        self,
        chat: Chat,
        models: Models,
        calibration: Path | None,
        say: Callable[..., None],
        answer: Callable[[UserPrompt], None],
    ) -> None:
        self._chat, self._models, self._calibration = chat, models, calibration
        self._say, self._answer = say, answer
        self._saved: set[Path] = set()
        self._random = random.Random()
        self._table = {
            "/trace": _Command("", "the last answer step by step, with scores", self._trace),
            "/router": _Command("[SPEC]", "show who decides, or exchange it", self._router),
            "/set": _Command("[NAME=VALUE]", "show or change temperature, seed, ...", self._set),
            "/reset": _Command("", "begin a new conversation", self._reset),
            "/save": _Command("FILE", "write all answers with their traces, as JSON", self._save),
            "/help": _Command("", "this list", self._help),
            "/quit": _Command("", "leave, as does Ctrl-D", self._quit),
        }
        if models.demo:
            name, what = "[DOMAIN[:INDEX]]", "draw a problem of math, qa or planning, and grade it"
            self._table = {"/problem": _Command(name, what, self._problem), **self._table}

    def names(self) -> list[str]:
        return list(self._table)

    def obey(self, line: str) -> None:
        """Does what ``line`` says.

        Raises:
            SteerError: it is no command, or cannot be done.
            Leave: the chat is over.
        """
        name, _, argument = line.partition(" ")
        command = self._table.get({"/exit": "/quit", "/?": "/help"}.get(name, name))
        if command is None:
            raise SteerError(
                f"there is no command {name!r}: choose from {', '.join(self._table)} "
                "(a line that begins with a space is a question)"
            )
        argument = argument.strip()
        if argument and not command.argument:
            raise SteerError(f"{name} takes no argument, got {argument!r}: leave it out")
        command.run(argument)

    def _trace(self, _: str) -> None:
        answer = self._chat.last
        if answer is None:
            raise SteerError("there is no answer yet: ask a question first")
        trace = answer.output.trace
        self._say(TraceView.of(trace).steps(trace), "", summary(answer), "")

    def _router(self, spec: str) -> None:
        if spec:
            # What was given on the command line is for routers that can take it.
            own = self._calibration if wants_calibration(spec) else None
            self._chat.use(make_policy(spec, self._models, own))
        self._say(f"router {self._chat.session.router.policy}", style="dim")

    def _set(self, argument: str) -> None:
        chat = self._chat
        options = dict(chat.options)
        for part in argument.split():
            name, equals, value = part.partition("=")
            if name not in options or not equals:
                raise SteerError(
                    f"there is no setting {part!r}: write NAME=VALUE, with a name of "
                    f"{', '.join(options)}"
                )
            kind = type(options[name])
            try:
                options[name] = kind(value)
            except ValueError:
                what = "whole number" if kind is int else "number"
                raise SteerError(f"{name} must be a {what}, got {value!r}") from None
        check_options(options)
        chat.options = options
        self._say(" ".join(f"{name}={value}" for name, value in options.items()), style="dim")

    def _reset(self, _: str) -> None:
        self._chat.reset()
        self._say("a new conversation; /save still has the answers so far", style="dim")

    def _save(self, name: str) -> None:
        if not name:
            raise SteerError("/save needs the name of a file: /save chat.json")
        path, chat = user_path(name), self._chat
        if not chat.turns:
            raise SteerError("there is nothing to save yet: ask a question first")
        check_writable(path)
        if path.exists() and path.resolve() not in self._saved:
            raise SteerError(f"{name!r} exists, and this chat did not write it: take another name")
        write_whole(path, chat.document() + "\n")
        self._saved.add(path.resolve())
        self._say(f"{count(len(chat.turns), 'answer')} saved in {name}", style="dim")

    def _problem(self, spec: str) -> None:
        from ...demo import DOMAINS

        domain, colon, number = (spec or self._random.choice(DOMAINS)).partition(":")
        question = demo_problem(
            f"{domain}:{number if colon else self._random.randrange(_DRAWN)}", self._models
        )
        self._say(
            Text(question.prompt, style="bold").append(
                f"   {question.problem}", style="not bold dim"
            )
        )
        self._answer(question)

    def _help(self, _: str) -> None:
        grid = Table.grid(padding=(0, 2))
        for name, command in self._table.items():
            grid.add_row(Text(f"{name} {command.argument}".strip()), Text(command.help))
        self._say(grid, "", Text(_FIGURES, style="dim"), "")

    def _quit(self, _: str) -> None:
        raise Leave
