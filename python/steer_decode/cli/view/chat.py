"""A chat for the eye, in its writers' colours.

An answer is shown while it is written. The colours are those of the trace. Where there are none,
each step begins with S or L.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ...core.events import Event, StepClosed, TextDelta
from ...core.saved import SavedAnswer
from ...core.transcript import WRITERS, Writer
from ...decode.session import Turn
from ...util.text import count, printable, significant
from .answer import ENDS, verdict
from .trace import COLOUR, MARK


class AnswerPrinter:
    """A printer of tokens as they come.

    A step that is taken back is struck through where it stands. Line breaks wait until more text
    follows, so that an answer ends where its text does.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._marks = console.no_color or console.color_system is None
        self._width = max(1, console.width)
        self._moves = console.is_terminal and not console.is_dumb_terminal
        self._breaks = 0
        self._begun = False
        self._step: Writer | None = None
        self._text = ""  # of the open step, as shown
        self._row = self._column = self._start = 0  # the cursor, from where the step began

    def show(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._add(event.text, event.writer)
        elif isinstance(event, StepClosed):
            mended = event.step.refused is not None  # what stays is about to be shown again
            if event.step.discarded and self._text and not (mended and self._erased()):
                self._withdraw(event.step.writer)
            self._step, self._text = None, ""

    def finish(self) -> None:
        """Go to the next line.

        The answer may be complete or not.
        """
        if self._begun:
            self._console.print()

    def _add(self, text: str, writer: Writer) -> None:
        text = printable(text).replace("\t", "    ")
        body = text.lstrip("\n")
        if self._begun or self._text:
            self._breaks += len(text) - len(body)
        if not body:
            return
        if self._step is None:
            self._open(writer)
        elif self._breaks:
            self._write("\n" * self._breaks, writer)
        self._breaks = 0
        kept = body.rstrip("\n")
        self._breaks = len(body) - len(kept)
        self._write(kept, writer)

    def _open(self, writer: Writer) -> None:
        """Brings the cursor to where a step begins."""
        if self._breaks:
            self._console.print("\n" * self._breaks, end="", soft_wrap=True)
            self._column = 0
        self._begun, self._step = True, writer
        self._row, self._start = 0, self._column
        if self._marks and not self._column:
            self._write(f"{MARK[writer]} ", writer)

    def _write(self, text: str, writer: Writer, style: str = "") -> None:
        self._text += text
        look = f"{COLOUR[writer]} {style}"
        self._console.print(Text(text, style=look), end="", soft_wrap=True)
        for character in text:
            wide = cell_len(character)
            if character == "\n":
                self._row, self._column = self._row + 1, 0
            elif self._column + wide > self._width:
                self._row, self._column = self._row + 1, wide
            else:
                self._column += wide

    def _erased(self) -> bool:
        """Takes the open step off the screen, where the cursor can go back to its start."""
        if not self._moves or self._row >= self._console.height - 1:
            return False
        up = f"\x1b[{self._row}A" if self._row else ""
        right = f"\x1b[{self._start}C" if self._start else ""
        self._console.file.write(f"\r{up}{right}\x1b[J")
        self._row, self._column, self._breaks = 0, self._start, 0
        return True

    def _withdraw(self, writer: Writer) -> None:
        text, breaks = self._text, self._breaks
        if self._erased():
            self._breaks = breaks
            self._write(text, writer, "dim strike")
        self._console.print(Text("  taken back", style="dim italic"), end="", soft_wrap=True)
        self._breaks = max(1, self._breaks)


def status(answer: SavedAnswer, turn: Turn, remembers: bool) -> Text:
    """One line on an answer and what it cost.

    It says how the answer came about.
    """
    cost, tokens = answer.output.cost, len(answer.output.token_ids)
    line = Text()
    if answer.correct is not None:
        line.append_text(verdict(answer.correct)).append(" · ")
    parts = [f"{100 * cost.large_token_share:.0f} % by L"]
    parts.append(count(cost.hand_overs, "hand-over"))
    alone = 2 * answer.active.get("large", answer.parameters["large"]) * tokens
    parts.append(f"{cost.flops_paper / alone:.2f}x L's FLOPs")
    if cost.seconds:
        parts.append(f"{significant(tokens / cost.seconds)} tokens/s")
    if remembers:
        parts.append("reused " + " ".join(f"{MARK[w]} {turn.reused[w]:,}" for w in WRITERS))
    end = answer.output.trace.stop_reason
    if end != "eos":
        parts.append(ENDS.get(end, end))
    line.append(" · ".join(parts), style="dim")
    return line
