"""The figures of ``steer bench serve``, as lines and picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .measure import TURNS, ServeResult


class Limit(NamedTuple):
    """A figure with the limit that it is to keep.

    Fields:
        name: what it is.
        value: as it was measured.
        text: the value, for people.
        limit: in words.
        ok: whether it is kept.
    """

    name: str
    value: float
    text: str
    limit: str
    ok: bool


def limits(found: ServeResult) -> list[Limit]:
    """All figures that have a limit."""
    answers, leaving = found.plan["streams"] * found.plan["rounds"] * TURNS, found.plan["leaving"]
    rows = [
        ("answers lost", found.lost, f"{found.lost} of {answers}", "0", found.lost == 0),
        ("texts that differ", found.wrong, f"{found.wrong} of {answers}", "0", found.wrong == 0),
        (
            "answers a second, of Router.cohort's",
            found.throughput,
            f"{found.throughput:.2f}",
            "0.9 at least",
            found.throughput >= 0.9,
        ),
        (
            "one stream, over Router.stream",
            found.overhead,
            f"{found.overhead:+.1%}",
            "15 % at most",
            found.overhead <= 0.15,
        ),
        (
            f"memory after {found.plan['requests']} requests, over a tenth of them",
            found.memory,
            f"{found.memory:+.1%}",
            "5 % at most",
            found.memory <= 0.05,
        ),
        (
            f"rows left by {leaving} clients that hang up",
            found.leaked,
            str(found.leaked),
            "0",
            found.leaked == 0,
        ),
        (
            f"longest pause as {found.plan['long']} tokens join, of reading them alone",
            found.pause,
            f"{found.pause:.2f}",
            "2 at most",
            found.pause <= 2,
        ),
    ]
    return [Limit(*row) for row in rows]


def lines(found: ServeResult) -> Iterator[str]:
    """The figures with tick or cross, and the percentiles."""
    for row in limits(found):
        yield f"{'✓' if row.ok else '✗'} {row.name:58} {row.text:>10}  {row.limit}"
    yield ""
    yield f"  {'seconds, of concurrent streams':38} {'p50':>9} {'p90':>9} {'p99':>9}"
    for name, values in (("to the first text", found.first), ("between texts", found.gaps)):
        yield f"  {name:38} " + " ".join(f"{value:9.3f}" for value in values)


def draw(found: ServeResult, file: Path) -> None:
    """The percentiles as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    places = range(3)
    for shift, name, values in (
        (-0.2, "to the first text", found.first),
        (0.2, "between texts", found.gaps),
    ):
        bars = axes.bar([at + shift for at in places], values, 0.38, label=name)
        axes.bar_label(bars, [f"{value:.3f}" for value in values], fontsize=8)
    axes.set_xticks(list(places), ["p50", "p90", "p99"])
    axes.set_ylabel("seconds")
    axes.set_yscale("log")
    axes.set_title(f"{found.plan['streams']} streams over {found.plan['rows']} rows", fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(file)
    plt.close(figure)
