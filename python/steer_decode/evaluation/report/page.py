"""The page: one file that needs nothing else.

Words, tables and pictures are put into it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files

from ...util.palette import variables
from ...util.text import count, duration, printable, si
from ..rows import ResultRow
from .bootstrap import Interval
from .confidence import how_judged
from .data import Results
from .draw import cost_text
from .measure import SECONDS, SHARE, CostAxis, RouterFigures, Scope
from .picture import Picture, percent
from .styles import Style
from .traces import Traces

_GLYPHS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "P": "✚", "v": "▼", "X": "✖", "*": "★"}
_GLYPHS |= {"<": "◀", ">": "▶", "d": "♦"}


def render(
    results: Results,
    scopes: Sequence[Scope],
    sections: Mapping[str, Sequence[Picture]],
    styles: Mapping[str, Style],
    traces: Traces,
    drawn: Sequence[str],
    title: str,
    resamples: int,
) -> str:
    """The page as one HTML document.

    Args:
        scopes: that of all problems first, then one a domain where there are several.
        sections: pictures by the part of the page.
        drawn: routers whose steps are drawn.
    """
    import jinja2
    import markupsafe

    here = files(__package__)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    glyph = {style: _GLYPHS[style.marker] for style in styles.values()}
    environment.filters |= {"interval": _interval, "quotient": _quotient, "glyph": glyph.get}
    template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
    page = template.render(
        title=title,
        facts=_facts(results, resamples),
        notes=_notes(results, scopes[0]),
        glance=_glance(scopes[0]),
        scopes=scopes,
        costs=scopes[0].costs,
        share=SHARE,
        sections=sections,
        styles=styles,
        traces=traces,
        drawn=drawn,
        routed=len(results.routed()),
        judged=how_judged(results).sentences(),
        settings=_settings(results),
        routers=results.settings["routers"],
        light=variables("light"),
        dark=variables("dark"),
        css=(here / "page.css").read_text(encoding="utf-8"),
        js=(here / "page.js").read_text(encoding="utf-8"),
        break_here=markupsafe.Markup(":<wbr>"),
        cell=_cell,
        absolute=_absolute,
    )
    # All of it at once: no name or text on its way through the template can be forgotten.
    return printable(page)


def _interval(value: Interval, signed: bool = False) -> tuple[str, str]:
    """A figure in per cent, and its bounds."""
    if not math.isfinite(value.value):
        return "-", ""
    form = "+.1f" if signed else ".1f"
    return f"{100 * value.value:{form}}", f"{100 * value.low:{form}} to {100 * value.high:{form}}"


def _quotient(value: Interval) -> tuple[str, str]:
    if not math.isfinite(value.value):
        return "-", ""
    return f"{value.value:.2f}", f"{value.low:.2f} to {value.high:.2f}"


def _cell(router: RouterFigures, cost: CostAxis, scope: Scope) -> tuple[str, str]:
    """A cost as the table shows it, and its bounds."""
    value = router.costs[cost.key]
    if cost is SHARE:
        return _interval(value)
    if scope.relative or not math.isfinite(value.value):
        return _quotient(value)
    return f"{_amount(value.value, cost)}", f"{si(value.low)} to {si(value.high)}"


def _absolute(router: RouterFigures, cost: CostAxis) -> str:
    if cost is SHARE:
        return ""
    return _amount(router.absolute[cost.key], cost)


def _amount(value: float, cost: CostAxis) -> str:
    return duration(value) if cost is SECONDS else f"{si(value)}{cost.unit}"


def _facts(results: Results, resamples: int) -> list[tuple[str, str]]:
    about = results.settings.get("about", {})
    facts = []
    for writer in ("small", "large"):
        known = about.get(writer, {})
        size = f", {si(known['parameters']).strip()} parameters" if "parameters" in known else ""
        facts.append((f"{writer} model", f"{known.get('name', '?')}{size}"))
    per_domain = ", ".join(
        f"{sum(d == domain for d, _ in results.names)} {domain}" for domain in results.domains[:8]
    )
    if len(results.domains) > 8:
        per_domain += f" and {len(results.domains) - 8} more domains"
    facts.append(("problems", f"{count(len(results.names), 'problem')}: {per_domain}"))
    seeds = ", ".join(map(str, results.seeds))
    facts.append(("seeds", seeds))
    temperature = results.settings.get("temperature")
    if temperature is not None:
        facts.append(("temperature", "0 (greedy)" if temperature == 0 else f"{temperature:g}"))
    facts.append(
        (
            "intervals",
            f"95 %: Wilson's for shares of right answers, else a bootstrap over problems with "
            f"{resamples:,} resamples",
        )
    )
    return facts


def _notes(results: Results, scope: Scope) -> list[str]:
    """What a reader has to know before believing the figures."""
    notes = []
    if results.left_out:
        notes.append(
            f"{count(results.left_out, 'problem')} left out, because not every router has answered."
        )
    if results.failed:
        notes.append(f"{_failures(results.failed)} Such answers count as wrong.")
    if len(results.names) < 100:
        notes.append(f"Only {count(len(results.names), 'problem')}: intervals are wide and rough.")
    if not scope.lines:
        notes.append(
            "No comparison with chance: it needs the routers small and large among the results."
        )
    return notes


def _failures(failed: Sequence[ResultRow]) -> str:
    one = failed[0]
    return (
        f"The checker failed on {count(len(failed), 'answer')}, first on {one.domain}:"
        f"{one.problem} ({one.router}, seed {one.seed}): {printable(one.error)[:200]}."
    )


def _glance(scope: Scope) -> list[str]:
    """A sentence on each router that is no control."""
    sentences = []
    main = next(cost for cost in scope.costs if cost.key == "flops_processed")
    for router in scope.routers:
        if router.kind != "routed":
            continue
        text = f"{router.router}: {100 * router.accuracy.value:.1f} % right"
        if scope.relative:
            text += f" at {cost_text(router, main)} of the large model's processed FLOPs"
        above = router.above_chance.get(main.key)
        if above is not None and math.isfinite(above.value):
            points = f"{percent(above, True)} points"
            if above.low > 0 or above.high < 0:
                side = "above" if above.low > 0 else "below"
                text += f", {side} a random mix of that cost ({points})"
            else:
                text += f", no clear difference from a random mix of that cost ({points})"
        sentences.append(f"{text}.")
    return sentences


def _settings(results: Results) -> list[tuple[str, str]]:
    hidden = ("routers", "signals", "about", "format")
    return [(k, str(v)) for k, v in sorted(results.settings.items()) if k not in hidden]
