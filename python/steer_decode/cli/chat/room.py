"""Loop of ``steer chat``: read a line, answer, go on."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.text import Text

from ...core.events import Done, StepClosed
from ...core.transcript import WRITERS
from ...decode.session import Turn
from ...errors import OutputError, SteerError
from ...util.interruption import check, forgive
from ...util.text import one_line, si
from .. import say
from ..models import Models
from ..prompt import UserPrompt, demo_problem, recognise
from ..view.chat import AnswerPrinter, status
from ..view.trace import COLOUR, MARK
from .commands import Commands, Leave
from .conversations import Chat
from .lines import clean, edit_lines, piped, typed


class Room:
    """One chat, at a terminal or in a pipe.

    Args:
        chat: the conversation.
        models: as they were asked for.
        calibration: of the pair, for routers that want one.
        log: where each answer is appended.
        screen: where answers go.
        interactive: a person is typing; otherwise lines come from a pipe.
    """

    def __init__(
        self,
        chat: Chat,
        models: Models,
        calibration: Path | None,
        log: Path | None,
        screen: Console,
        interactive: bool,
    ) -> None:
        self.chat = chat
        self.models = models
        self.screen = screen
        self._log = log
        self._interactive = interactive
        self._failed = False
        self._commands = Commands(chat, models, calibration, self.say, self.answer)

    def run(self) -> int:
        """Talk until the input ends.

        Exit status 2 if a pipe's line was refused. What is typed ends it by a command only.
        """
        if hasattr(sys.stdin, "reconfigure"):
            # A line that is no text is refused alone; strictly read, it would end the input.
            sys.stdin.reconfigure(errors="surrogateescape")
        if self._interactive:
            edit_lines(self._commands.names())
            self._greet()
        with contextlib.suppress(Leave):
            for line in typed(self.say) if self._interactive else piped():
                try:
                    self._obey(line)
                    check()
                except (Leave, OutputError, BrokenPipeError):
                    raise
                except SteerError as error:
                    self.complain(str(error))
                except KeyboardInterrupt as error:
                    if not self._interactive:
                        raise
                    forgive(error)
                    self.say("")
                except Exception as error:  # of a model, a tokenizer, a router of somebody's
                    self.chat.recover()
                    self.complain(
                        f"that line ended in an error ({type(error).__name__}: {error}); it is "
                        "forgotten, and the chat goes on"
                    )
        return 2 if self._failed and not self._interactive else 0

    def say(self, *parts: Any, style: str = "") -> None:
        """Show an answer to a command as plain text."""
        for part in parts:
            self.screen.print(Text(part) if isinstance(part, str) else part, style=style)

    def complain(self, message: str) -> None:
        """Say what cannot be done, and go on."""
        self._failed = True
        if self._interactive:
            self.say(Text(f"steer: {one_line(message)}", style="yellow"))
        else:
            say.note(message)

    def answer(self, question: UserPrompt) -> None:
        """Answer a question and show how.

        Raises:
            SteerError: it cannot be answered, or not to the end; what was written is kept.
            KeyboardInterrupt: Ctrl-C in a pipe.
            Exception: whatever a model raises; nothing is kept.
        """
        self._note_unknown(question)
        turn = self.chat.ask(question.prompt)
        try:
            stopped = self._follow(turn)
        except (SteerError, KeyboardInterrupt) as error:
            broken = isinstance(error, SteerError)
            turn.trace.stop_reason = "error" if broken else "interrupted"
            self._keep(question, turn)
            raise
        self._keep(question, turn)
        if stopped and not self._interactive:
            raise KeyboardInterrupt

    def _keep(self, question: UserPrompt, turn: Turn) -> None:
        finished = turn.trace.stop_reason not in ("interrupted", "error")
        correct = question.grade(turn.output.text) if finished else None
        answer = self.chat.keep(question.prompt, turn, correct, question.problem)
        if answer is None:
            if self._interactive and turn.trace.stop_reason == "interrupted":
                self.say("stopped before the first token; the question is forgotten", style="dim")
            return
        if self._interactive:
            if not answer.output.text.strip():
                self.say("(the answer is empty)", style="dim")
            self.say(status(answer, turn, self.chat.remembers), "")
        if self._log is not None:
            try:
                with self._log.open("a", encoding="utf-8") as file:
                    file.write(self.chat.line() + "\n")
            except OSError as error:
                self.complain(
                    f"cannot write {str(self._log)!r}: {error.strerror}; /save FILE keeps all"
                )

    def _follow(self, turn: Turn) -> bool:
        """Shows an answer as it comes; True if Ctrl-C ended it."""
        printer = AnswerPrinter(self.screen) if self._interactive else None
        text, event, ctrl_c = "", None, _CtrlC()
        try:
            with ctrl_c:
                for event in turn:
                    if printer is not None:
                        printer.show(event)
                    elif isinstance(event, StepClosed) and not event.step.discarded:
                        text += event.step.text
                        say.out(event.step.text, end="", data=True)
                    if ctrl_c.asked and not isinstance(event, Done):
                        break
        except KeyboardInterrupt as error:
            forgive(error)
            ctrl_c.asked = True  # The second one, within a pass that was too long to wait for.
        finally:
            if printer is not None:
                printer.finish()
            elif text and not text.endswith("\n"):
                say.out()
        stopped = ctrl_c.asked and not isinstance(event, Done)
        if stopped:
            turn.trace.stop_reason = "interrupted"
        return stopped

    def _obey(self, line: str) -> None:
        if line != clean(line):
            raise SteerError("a line of standard input is not UTF-8 text, and was left out")
        if line.startswith("/"):
            self._commands.obey(line)
        elif line.strip():
            task = recognise(line) if self.models.demo else None
            self.answer(UserPrompt(line.strip(), task=task))

    def _note_unknown(self, question: UserPrompt) -> None:
        """Says so where a model of few words is asked about others."""
        pair = self.chat.session.router.pair
        missing, tokens = question.unknown(pair)
        if self.models.demo and missing == tokens:
            raise SteerError(
                "the demo pair knows none of these words: /problem draws one of the problems that "
                "it was trained for"
            )
        if not self._interactive:
            question.warn(pair)
        elif missing:
            hint = "; /problem shows what they can do" if self.models.demo else ""
            self.say(
                f"the models know {tokens - missing} of these {tokens} tokens{hint}", style="dim"
            )

    def _greet(self) -> None:
        router = self.chat.session.router
        line = Text()
        for writer in WRITERS:
            line.append(f"{MARK[writer]} {writer}", style=f"bold {COLOUR[writer]}")
            size = si(router.pair.shapes[writer].parameters).strip()
            line.append(f", {size} parameters   ", style="dim")
        self.say(line.append(f"router {router.policy}", style="dim"), "")
        if self.models.demo:
            self.say(
                "The demo pair solves three kinds of problems and knows few other words. Each line "
                "stands alone. Paste one of these, or type /problem to draw another:"
            )
            for domain, index in (("math", 0), ("qa", 1), ("planning", 3)):
                prompt = demo_problem(f"{domain}:{index}", self.models).prompt
                self.say(Text(f"  {prompt}", style="bold"))
        elif not self.chat.remembers:
            self.say(
                "This pair has no template for a conversation: each line stands alone, as a text "
                "for the models to continue. Try: The three primary colours are"
            )
        self.say(
            "/help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.", "", style="dim"
        )


class _CtrlC:
    """Notes Ctrl-C while an answer is written, so that it falls between two tokens.

    A second one is raised at once.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _CtrlC:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
