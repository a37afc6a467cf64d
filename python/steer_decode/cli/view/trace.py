"""Steps for the eye, each in its writer's colour.

Beside it stands what was measured. The letters S and L say the same as the colours, for those who
do not see them. Model output is only ever shown as plain text: it is not read as markup, and
control characters are made visible.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain, pairwise
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...core.events import Event, HandOver, StepClosed, TextDelta
from ...core.trace import Step, Trace
from ...core.transcript import WRITERS, Writer, other
from ...policies import Policy
from ...util.palette import COLOURS
from ...util.text import count, printable

COLOUR: dict[Writer, str] = {writer: COLOURS[writer].terminal for writer in WRITERS}
MARK: dict[Writer, str] = {"small": "S", "large": "L"}
WIDTH = 92
_INDENT = " " * 8


class _Column(NamedTuple):
    title: str
    width: int
    read: Callable[[Step], float | str | None]
    digits: int = 2

    def figure(self, step: Step) -> str:
        """What the column shows of a step.

        Never more than fits, never a figure cut off.
        """
        value = self.read(step)
        if isinstance(value, str):
            return value
        if value is None or not math.isfinite(value):
            return ""
        for digits in range(self.digits, -1, -1):
            if len(text := f"{value:.{digits}f}") <= self.width:
                return text
        if self.title == "ms":
            return f"{value / 1e3:.0f} s" if value < 1e7 else f"{value / 3.6e6:.0f} h"
        return next(t for d in (3, 2, 1, 0) if len(t := f"{value:.{d}e}") <= self.width or not d)


def _drafts(step: Step) -> str:
    """``3/4``: of the drafted tokens that the large model read, how many stayed."""
    drafted = sum(tokens for tokens, _ in step.drafts)
    return f"{sum(stayed for _, stayed in step.drafts)}/{drafted}" if drafted else ""


class TraceView:
    """Steps laid out in columns.

    They line up from one step to the next.

    Args:
        signal: name of the signal whose mean is a step's score.
        posterior: show the posterior of the mixture.
        looks_ahead: show the signal of the small model's next token, read before the step.
        drafts: show how many of the drafted tokens that the large model read stayed.
    """

    def __init__(
        self,
        signal: str,
        *,
        posterior: bool = False,
        looks_ahead: bool = False,
        drafts: bool = False,
    ) -> None:
        self.columns = [_Column(signal, 9, lambda step: step.score)]
        if posterior:
            self.columns.append(_Column("P(conf)", 7, lambda step: step.posterior))
        if looks_ahead:
            self.columns.append(_Column("1st token", 9, lambda step: step.before))
        if drafts:
            self.columns.append(_Column("drafts", 7, _drafts))
        self.columns.append(_Column("ms", 6, lambda step: step.milliseconds, 1))

    @classmethod
    def of(cls, source: Trace | Policy) -> TraceView:
        """The columns of a finished trace, or of a policy.

        Those that the trace has values for, or that the policy will fill.
        """
        if isinstance(source, Policy):
            # What is shown as it goes is one answer, which is no cohort to fit a mixture to.
            posterior = source.has_posterior and not source.in_rounds
            return cls(
                source.signal.name,
                posterior=posterior,
                looks_ahead=source.looks_ahead,
                drafts=source.drafting is not None,
            )
        return cls(
            source.signal,
            posterior=any(step.posterior is not None for step in source.steps),
            looks_ahead=any(step.before is not None for step in source.steps),
            drafts=any(step.drafts for step in source.steps),
        )

    def _grid(self) -> Table:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=4, justify="right", style="dim")
        grid.add_column(width=2)
        grid.add_column(ratio=1, overflow="fold")
        for column in self.columns:
            grid.add_column(width=column.width, justify="right", style="dim", vertical="bottom")
        return grid

    def header(self) -> RenderableType:
        grid = self._grid()
        grid.add_row("step", "", "", *(column.title for column in self.columns))
        return Constrain(grid, WIDTH)

    def step(self, step: Step, *, open_: bool = False) -> RenderableType:
        """One step, laid out.

        An open one has no figures yet, a discarded one is struck through.
        """
        style = COLOUR[step.writer]
        body = self._body(step)
        if open_:
            body.append(" ...", style="dim")
        elif not body.plain:
            body.append("(end)", style="dim")
        figures = ["" if open_ else c.figure(step) for c in self.columns]
        grid = self._grid()
        mark = Text(MARK[step.writer], style=f"bold {style}")
        grid.add_row(str(step.index), mark, body, *figures)
        row = Constrain(grid, WIDTH)
        if not step.discarded:
            return row
        why = "taken back: not confident enough"
        if step.refused is not None:
            why = f"refused at token {step.refused}: the {other(step.writer)} model writes that one"
        return Group(row, Text(f"{_INDENT}{why}", style="dim italic"))

    def _body(self, step: Step) -> Text:
        """What a step says: in the colours of who wrote it, what was taken back struck through."""
        body = Text(style=COLOUR[step.writer])
        stays = step.ends[step.refused - 1] if step.refused else 0
        cuts = sorted({0, stays, len(step.text), *chain.from_iterable(step.patches)})
        for start, end in pairwise(cuts):
            style = COLOUR[other(step.writer)] if (start, end) in step.patches else ""
            if step.discarded and start >= stays:
                style += " strike dim"
            body.append(printable(step.text[start:end]), style=style)
        body.rstrip()
        return body[len(body.plain) - len(body.plain.lstrip()) :]

    def hand_over(self, writer: Writer, prefilled: int) -> Text:
        """A line that says who takes over.

        And what that model has to read first.
        """
        line = Text(_INDENT, style="dim")
        line.append(f"→ {writer} model", style=f"not dim {COLOUR[writer]}")
        return line.append(f" takes over, reads {count(prefilled, 'token')}")

    def steps(self, trace: Trace) -> RenderableType:
        """All steps of a finished trace."""
        lines: list[RenderableType] = [self.header()]
        last: Step | None = None
        for step in trace.steps:
            if last is not None and last.writer != step.writer:
                lines.append(self.hand_over(step.writer, step.prefilled))
            lines.append(self.step(step))
            last = step
        return Group(*lines)


class TracePrinter:
    """A printer of a stream as it goes.

    Whole steps are printed, the open one is redrawn in place.
    """

    def __init__(self, console: Console, view: TraceView) -> None:
        self._console = console
        self._view = view
        self._open: Step | None = None
        self._mended = -1  # index of a step that is being mended
        self._live = Live(console=console, transient=True, auto_refresh=console.is_terminal)

    def __enter__(self) -> TracePrinter:
        self._console.print(self._view.header())
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Of a step that was cut short, what is there stays on the screen.
        if self._open is not None:
            self._console.print(self._view.step(self._open, open_=True))
        self._live.update(Text(""))
        self._live.stop()

    def show(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            if self._open is None:
                self._open = Step(event.index, event.writer)
            self._open.text += event.text
            self._live.update(self._view.step(self._open, open_=True))
        elif isinstance(event, StepClosed):
            self._open = None
            self._mended = event.step.index if event.step.refused is not None else -1
            self._live.update(Text(""), refresh=True)
            self._console.print(self._view.step(event.step))
        elif isinstance(event, HandOver) and event.index != self._mended:
            self._console.print(self._view.hand_over(event.writer, event.prefilled))
