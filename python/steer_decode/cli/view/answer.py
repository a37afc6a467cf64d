"""A finished answer for the eye.

Its steps, its costs, and either model alone beside it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from ...core.saved import SavedAnswer
from ...core.trace import Step
from ...core.transcript import WRITERS, Writer
from ...util.console import SafeConsole
from ...util.text import count, duration, printable, si
from .trace import COLOUR, MARK, WIDTH, TraceView

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


def title(answer: SavedAnswer) -> RenderableType:
    """Which models, which router, and the question."""
    models = Text()
    for writer in WRITERS:
        models.append(f"{MARK[writer]} {writer} model", style=COLOUR[writer])
        size = f"{si(answer.parameters[writer]).strip()} parameters"
        if writer in answer.active:
            size += f", {si(answer.active[writer]).strip()} active"
        models.append(f", {size}   ", style="dim")
    grid = _facts()
    grid.add_row(" models", models)
    grid.add_row(" router", Text(answer.output.trace.policy, style="dim"))
    question = printable(answer.prompt).strip()
    if len(question) > _SHOWN:
        question = f"{question[:_SHOWN]} ... ({len(question):,} characters)"
    grid.add_row(" question", Text(question, style="bold"))
    return grid


def summary(answer: SavedAnswer) -> RenderableType:
    """Steps, tokens, hand-overs and the four costs, in three lines.

    A fourth tells of drafts, if the large model read any.
    """
    trace, cost = answer.output.trace, answer.output.cost
    by_writer = Text()
    for writer in WRITERS:
        steps = [step for step in trace.kept if step.writer == writer]
        tokens = sum(step.by(writer) for step in trace.kept)
        by_writer.append(f"{MARK[writer]} {count(len(steps), 'step')}, ", style=COLOUR[writer])
        by_writer.append(f"{count(tokens, 'token')}   ", style=COLOUR[writer])
    by_writer.append(f"{100 * cost.large_token_share:.0f} % of tokens by L")
    taken_back = sum(step.discarded and step.refused is None for step in trace.steps)
    mended = sum(step.refused is not None for step in trace.steps)
    path = f"{count(cost.hand_overs, 'hand-over')}, {count(taken_back, 'step')} taken back"
    path += f", {count(mended, 'token')} mended" if mended else ""
    path += f" ({count(cost.discarded_tokens, 'token')} in vain), "
    path += ENDS.get(trace.stop_reason, trace.stop_reason)
    costs = (
        f"{si(cost.flops_paper)}FLOP as papers count, {si(cost.flops_processed)}FLOP processed, "
        f"{si(cost.bytes_read)}B read, {duration(cost.seconds)}"
    )
    grid = _facts()
    grid.add_row(" written", by_writer)
    grid.add_row(" path", path)
    grid.add_row(" cost", costs)
    drafts = [draft for step in trace.steps for draft in step.drafts]
    if drafts:
        drafted, stayed = (sum(draft[at] for draft in drafts) for at in (0, 1))
        unread = sum(len(step.others) for step in trace.kept if step.writer == "large")
        told = f"{count(len(drafts), 'draft')} read by L: {stayed} of "
        told += f"{count(drafted, 'token')} stayed"
        told += f", {unread} more {'stands' if unread == 1 else 'stand'} unread" if unread else ""
        grid.add_row(" drafted", told)
    if answer.correct is not None:
        grid.add_row(" answer", verdict(answer.correct))
    return grid


def comparison(answer: SavedAnswer, alone: dict[Writer, SavedAnswer]) -> RenderableType:
    """The routed answer beside either model alone.

    Ratios are to the large model alone.
    """
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


def svg(
    answer: SavedAnswer, alone: dict[Writer, SavedAnswer] | None = None, width: int = WIDTH
) -> str:
    """A picture of a finished answer, ``width`` characters wide."""
    console = SafeConsole(
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


def page(
    answer: SavedAnswer, alone: dict[Writer, SavedAnswer] | None = None
) -> list[RenderableType]:
    """All there is to show of a finished answer.

    From top to bottom.
    """
    trace = answer.output.trace
    parts = [title(answer), "", TraceView.of(trace).steps(trace), "", summary(answer)]
    return [*parts, "", comparison(answer, alone)] if alone else parts


def _facts() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", width=9)
    return grid


def verdict(correct: bool) -> Text:
    return Text("right", style="green") if correct else Text("wrong", style="red")


def _ending(answer: SavedAnswer) -> Text:
    kept: Sequence[Step] = [step for step in answer.output.trace.kept if step.text.strip()]
    text = Text(" ".join(printable(kept[-1].text).split())[-200:] if kept else "(nothing)")
    if answer.correct is not None:
        text.append("  ").append_text(verdict(answer.correct))
    return text


def _with_ratio(value: float, large: float, unit: str, known: bool) -> Text:
    text = Text(duration(value) if unit == "s" else f"{si(value)}{unit}")
    if known and large:
        text.append(f"  {value / large:.2f}x", style="dim")
    return text
