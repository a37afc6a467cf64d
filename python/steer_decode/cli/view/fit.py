"""A fit of two models for the eye.

The verdict, what is in the way, the two side by side, their costs. Names, tokens and messages come
from model folders. They are shown as text that is no markup, with control characters made visible.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ...core.transcript import WRITERS, Writer
from ...preflight.break_even import BreakEven
from ...preflight.fit import SHOWN, Fit
from ...preflight.side import Side
from ...util.text import printable, short, si
from .trace import COLOUR

_COSTS = {"papers": "FLOPs as in papers", "processed": "FLOPs processed", "bytes": "bytes read"}


def page(fit: Fit) -> Iterator[RenderableType]:
    """All of it, part by part."""
    yield _text(fit.verdict, "bold")
    if fit.notes:
        yield Text()
    for note in fit.notes:
        yield Padding(_text(f"{note}."), (0, 0, 0, 2), expand=False)
    if fit.differences:
        yield Text()
        yield _tokens(fit)
    for writer, tried in fit.probes.items():
        yield Text(f"  The {writer} model was tried in {tried.seconds:.2g} s.")
    yield Text()
    yield _models(fit)
    if fit.costs:
        yield Text()
        yield _costs(fit)
        yield Text()
        yield _speculation(fit)
        yield Text()
        yield _memory(fit)


def _models(fit: Fit) -> Table:
    table = _table("", "small", "large")
    sides = [fit.side(writer) for writer in WRITERS]
    for title, values in (
        ("model", [side.name for side in sides]),
        ("family", [side.family for side in sides]),
        ("weights", [_weights(side) for side in sides]),
        ("parameters", [_number(side.parameters) for side in sides]),
        ("active, a token", [_number(s.shape.active if s.shape else None) for s in sides]),
        ("tokens", [f"{len(side.tokenizer.get_vocab()):,}" for side in sides]),
        ("chat template", [_template(fit, writer) for writer in WRITERS]),
        ("ids that end", [", ".join(map(str, sorted(side.eos_ids))) or "none" for side in sides]),
        ("context", [f"{side.context:,}" if side.context else "not said" for side in sides]),
        (
            "keys and values, a token",
            [_bytes(s.shape.cache_bytes(1) if s.shape else None) for s in sides],
        ),
    ):
        table.add_row(title, *map(_text, values))
    return table


def _costs(fit: Fit) -> Table:
    table = _table("of a token", "small", "large", "ratio", "saves below", "and")
    for cost in fit.costs:
        unit = "B" if cost.cost == "bytes" else "FLOP"
        values = [f"{si(value)}{unit}" for value in (cost.small, cost.large)]
        below = f"{cost.share:.1%}" if cost.share else "never"
        table.add_row(_COSTS[cost.cost], *values, f"{cost.ratio:.3g}", below, saving(cost))
    return table


def _speculation(fit: Fit) -> Table:
    """Lossless speculation: from which agreement it saves, and what was measured of this pair."""
    found = fit.agreement if fit.agreement and fit.agreement.tokens else None
    more = (f"here, {found.rate:.1%} of {found.tokens}", "at best") if found else ()
    table = _table("lossless speculation", "saves from an agreement of", *more)
    for each in fit.prices:
        least = each.least()
        row = ["never" if least is None else f"{least:.1%}"]
        if found:
            k, ratio = found.best(each)
            saves = least is not None and found.rate >= least
            row += ["saves" if saves else "does not save", f"{ratio:.2f} with k={k}"]
        table.add_row(_COSTS[each.cost], *row)
    return table


def saving(cost: BreakEven) -> str:
    """What else routing needs to save anything, by cost."""
    if not cost.share:
        return "a token of the small model costs as much"
    if cost.cost == "papers":
        return "what is read is free"
    if cost.cost == "processed":
        return (
            "the large model's last token stands before there: it reads all that it did not write"
        )
    if cost.hand_over is None:
        return "never in fact: a hand-over reads more experts than it spares"
    words = []
    if cost.hand_over > 1:
        words.append(f"the small model writes {cost.hand_over} tokens at a time or more")
    if cost.draft is None:
        words.append("no draft of it is read by the large model")
    else:
        words.append(f"drafts that are read have {cost.draft} tokens or more")
    return "; ".join(words)


def _memory(fit: Fit) -> Table:
    shown = f"{fit.context:,} tokens" + (f" times {fit.cohort:,}" if fit.cohort > 1 else "")
    table = _table(f"memory, {shown}", "small", "large", "both")
    for title, sizes in (("weights", fit.weights), ("keys and values", fit.caches)):
        row = [*(sizes[writer] for writer in WRITERS), sum(sizes.values())]
        table.add_row(title, *map(_bytes, row))
    have = f"of {_bytes(fit.available)} on {fit.device}"
    table.add_row("needed", "", have, _bytes(fit.needed))
    return table


def _tokens(fit: Fit) -> Table:
    table = _table("id", "small", "large")
    for one in fit.differences[:SHOWN]:
        words = ["-" if word is None else short(word) for word in (one.small, one.large)]
        table.add_row(str(one.id), *map(_text, words))
    more = len(fit.differences) - SHOWN
    if more > 0:
        table.add_row("", f"and {more:,} more", "")
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for i, title in enumerate(titles):
        style = COLOUR.get(title, "dim")  # type: ignore[call-overload]
        # What a row is about stays on one line; a narrow terminal folds the rest.
        table.add_column(title, header_style=style, overflow="fold", no_wrap=i == 0)
    return table


def _template(fit: Fit, writer: Writer) -> str:
    if fit.templates in WRITERS:
        return "its own" if fit.templates == writer else "none"
    return {"same": "the same", "differ": "its own", "none": "none"}[fit.templates]


def _weights(side: Side) -> str:
    dtype = str(side.dtype).removeprefix("torch.")
    packed = side.quantization
    if packed is None:
        return dtype
    bits = f", {packed.bits:.3g} bits" if packed.bits else ""
    return f"{packed.method}{bits}, else {dtype}"


def _number(value: int | None) -> str:
    return "not known" if value is None else si(value).strip()


def _bytes(value: float | None) -> str:
    return "not known" if value is None else f"{si(value)}B"


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style)
