"""A trace for the eye: each step in the colour of its writer, beside it what was measured.

The letters S and L say the same as the colours, for those who do not see them. Model output is
only ever shown as plain text: it is not read as markup, and control characters are made visible.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.table import Table
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from .events import Event, HandOver, StepClosed, TextDelta
from .policies import Policy
from .record import Answer
from .trace import Step, Trace
from .transcript import WRITERS, Writer
from .units import count, printable, si

COLOUR: dict[Writer, str] = {"small": "#2a9d8f", "large": "#e07a3f"}
MARK: dict[Writer, str] = {"small": "S", "large": "L"}
WIDTH = 92
_INDENT = " " * 8
_SHOWN = 600

ENDS = {
    "eos": "ended by itself",
    "max_new_tokens": "cut off at the token limit",
    "context": "cut off at the end of the context",
    "interrupted": "interrupted",
    "error": "broken off by an error",
}
_THEME = TerminalTheme(
    (27, 31, 38),
    (214, 219, 227),
    [
        (60, 66, 76),
        (224, 108, 117),
        (92, 184, 122),
        (224, 170, 63),
        (97, 155, 226),
        (190, 132, 204),
        (86, 182, 194),
        (214, 219, 227),
    ],
)


class _Column(NamedTuple):
    title: str
    width: int
    read: Callable[[Step], float | None]
    digits: int = 2


class TraceView:
    """Lays out steps in columns that line up from one step to the next.

    Args:
        signal: name of the signal whose mean is a step's score.
        posterior: show the posterior of the mixture.
        looks_ahead: show the signal of the small model's next token, read before the step.
    """

    def __init__(self, signal: str, *, posterior: bool = False, looks_ahead: bool = False) -> None:
        self.columns = [_Column(signal, 9, lambda step: step.score)]
        if posterior:
            self.columns.append(_Column("P(conf)", 7, lambda step: step.posterior))
        if looks_ahead:
            self.columns.append(_Column("1st token", 9, lambda step: step.before))
        self.columns.append(_Column("ms", 6, lambda step: step.milliseconds, 1))

    @classmethod
    def of(cls, source: Trace | Policy) -> TraceView:
        """The columns that a finished trace has values for, or that a policy will fill."""
        if isinstance(source, Policy):
            posterior = getattr(source, "calibration", None) is not None
            return cls(source.signal.name, posterior=posterior, looks_ahead=source.looks_ahead)
        return cls(
            source.signal,
            posterior=any(step.posterior is not None for step in source.steps),
            looks_ahead=any(step.before is not None for step in source.steps),
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
        """One step; an open one has no figures yet, a discarded one is struck through."""
        style = COLOUR[step.writer]
        body = Text(printable(step.text).strip(), style=style)
        if step.discarded:
            body.stylize("strike dim")
        if open_:
            body.append(" ...", style="dim")
        elif not body.plain:
            body.append("(end)", style="dim")
        figures = ["" if open_ else _figure(c.read(step), c.digits) for c in self.columns]
        grid = self._grid()
        mark = Text(MARK[step.writer], style=f"bold {style}")
        grid.add_row(str(step.index), mark, body, *figures)
        row = Constrain(grid, WIDTH)
        if not step.discarded:
            return row
        return Group(row, Text(f"{_INDENT}taken back: not confident enough", style="dim italic"))

    def hand_over(self, writer: Writer, prefilled: int) -> Text:
        """A line that says who takes over, and what that model has to read first."""
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
    """Shows a stream as it goes: whole steps are printed, the open one is redrawn in place."""

    def __init__(self, console: Console, view: TraceView) -> None:
        self._console = console
        self._view = view
        self._open: Step | None = None
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
            self._live.update(Text(""), refresh=True)
            self._console.print(self._view.step(event.step))
        elif isinstance(event, HandOver):
            self._console.print(self._view.hand_over(event.writer, event.prefilled))


def title(answer: Answer) -> RenderableType:
    """Which models, which router, and the question."""
    models = Text()
    for writer in WRITERS:
        models.append(f"{MARK[writer]} {writer} model", style=COLOUR[writer])
        models.append(f", {si(answer.parameters[writer]).strip()} parameters   ", style="dim")
    grid = _facts()
    grid.add_row(" models", models)
    grid.add_row(" router", Text(answer.output.trace.policy, style="dim"))
    question = printable(answer.prompt).strip()
    if len(question) > _SHOWN:
        question = f"{question[:_SHOWN]} ... ({len(question):,} characters)"
    grid.add_row(" question", Text(question, style="bold"))
    return grid


def summary(answer: Answer) -> RenderableType:
    """Steps, tokens, hand-overs and the four costs, in three lines."""
    trace, cost = answer.output.trace, answer.output.cost
    by_writer = Text()
    for writer in WRITERS:
        steps = [step for step in trace.kept if step.writer == writer]
        tokens = sum(len(step.token_ids) for step in steps)
        by_writer.append(f"{MARK[writer]} {count(len(steps), 'step')}, ", style=COLOUR[writer])
        by_writer.append(f"{count(tokens, 'token')}   ", style=COLOUR[writer])
    by_writer.append(f"{100 * cost.large_token_share:.0f} % of tokens by L")
    taken_back = sum(step.discarded for step in trace.steps)
    path = f"{count(cost.hand_overs, 'hand-over')}, "
    path += f"{count(taken_back, 'step')} taken back ({count(cost.discarded_tokens, 'token')}), "
    path += ENDS.get(trace.stop_reason, trace.stop_reason)
    costs = (
        f"{si(cost.flops_paper)}FLOP as papers count, {si(cost.flops_processed)}FLOP processed, "
        f"{si(cost.bytes_read)}B read, {cost.seconds:.3g} s"
    )
    grid = _facts()
    grid.add_row(" written", by_writer)
    grid.add_row(" path", path)
    grid.add_row(" cost", costs)
    if answer.correct is not None:
        grid.add_row(" answer", verdict(answer.correct))
    return grid


def comparison(answer: Answer, alone: dict[Writer, Answer]) -> RenderableType:
    """The routed answer beside either model alone; ratios are to the large model alone."""
    columns = [("routed", answer), *((f"{w} alone", alone[w]) for w in WRITERS if w in alone)]
    table = Table(box=None, padding=(0, 3, 0, 1), header_style="dim", pad_edge=False)
    table.add_column("")
    for name, _ in columns:
        writer = name.split()[0]
        style = f"not dim {COLOUR[writer]}" if writer in WRITERS else "not dim bold"
        table.add_column(name, header_style=style, overflow="fold", max_width=28)
    table.add_row(Text(" ends with", style="dim"), *(_ending(a) for _, a in columns))
    tokens = (count(len(a.output.token_ids), "token") for _, a in columns)
    table.add_row(Text(" length", style="dim"), *tokens)
    shares = (f"{100 * a.output.cost.large_token_share:.0f} %" for _, a in columns)
    table.add_row(Text(" by the large model", style="dim"), *shares)
    costs = [a.output.cost for _, a in columns]
    for name, unit, values in (
        ("FLOPs as papers count", "FLOP", [c.flops_paper for c in costs]),
        ("FLOPs processed", "FLOP", [c.flops_processed for c in costs]),
        ("bytes read", "B", [c.bytes_read for c in costs]),
        ("seconds", "s", [c.seconds for c in costs]),
    ):
        cells = [_with_ratio(v, values[-1], unit, "large" in alone) for v in values]
        table.add_row(Text(f" {name}", style="dim"), *cells)
    return table


def svg(answer: Answer, alone: dict[Writer, Answer] | None = None, width: int = WIDTH) -> str:
    """A picture of a finished answer, ``width`` characters wide."""
    console = Console(
        record=True,
        width=width + 1,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    for part in page(answer, alone):
        console.print(part)
    return console.export_svg(
        title="steer: one answer, two models", theme=_THEME, unique_id="steer-trace"
    )


def page(answer: Answer, alone: dict[Writer, Answer] | None = None) -> list[RenderableType]:
    """Everything there is to show of a finished answer, from top to bottom."""
    trace = answer.output.trace
    parts = [title(answer), "", TraceView.of(trace).steps(trace), "", summary(answer)]
    return [*parts, "", comparison(answer, alone)] if alone else parts


def _facts() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", width=9)
    return grid


def verdict(correct: bool) -> Text:
    return Text("right", style="green") if correct else Text("wrong", style="red")


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _ending(answer: Answer) -> Text:
    kept: Sequence[Step] = [step for step in answer.output.trace.kept if step.text.strip()]
    text = Text(" ".join(printable(kept[-1].text).split())[-200:] if kept else "(nothing)")
    if answer.correct is not None:
        text.append("  ").append_text(verdict(answer.correct))
    return text


def _with_ratio(value: float, large: float, unit: str, known: bool) -> Text:
    text = Text(f"{value:.3g} s" if unit == "s" else f"{si(value)}{unit}")
    if known and large:
        text.append(f"  {value / large:.2f}x", style="dim")
    return text
