"""A simulation in lines for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ..core.transcript import WRITERS, Writer
from ..util.text import count, si, significant
from .compare import Comparison, Contender
from .run import Simulated
from .source import Answers

_NAMES = {"routed": "routed", "alone": "large alone"}
_WIDE = 18


def about(answers: Answers) -> str:
    """What is simulated, in a line."""
    scripts = answers.scripts
    steps, written = (
        {w: sum(getattr(script, name)[w] for script in scripts) for w in WRITERS}
        for name in ("steps", "written")
    )
    handed = sum(script.hand_overs for script in scripts)
    left = f" ({answers.unfinished} cut off, left out)" if answers.unfinished else ""
    return (
        f"{count(len(scripts), 'answer')}{left} of {answers.router}: "
        f"{count(sum(s.tokens for s in scripts), 'token')}, small and large model "
        f"{steps['small']:,} + {steps['large']:,} steps, {written['small']:,} + "
        f"{written['large']:,} tokens written, {count(handed, 'hand-over')}"
    )


def table(contenders: Mapping[str, Contender], found: Mapping[str, Simulated]) -> Iterator[str]:
    """The figures, a column for each of "routed" and "alone"."""
    yield _line("", [_NAMES[name] for name in found])
    for name, tell in _ROWS:
        yield _line(name, [tell(each) for each in found.values()])
    engines = [
        ", ".join(
            f"{pool.replicas} {writer}"
            for writer, pool in contenders[name].plan.pools.items()
            if pool.replicas
        )
        for name in found
    ]
    yield _line("engines", engines)


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:38}" + "".join(f"  {cell:>{_WIDE}}" for cell in cells)


def _both(values: Mapping[Writer, float], show: Callable[[float], str]) -> str:
    """Of either model, where both are asked."""
    return " + ".join(show(values[w]) if values[w] else "-" for w in WRITERS)


def _seconds(values: Mapping[int, float]) -> str:
    return " ".join(significant(values[p]) for p in (50, 95, 99))


def _cost(name: str) -> Callable[[Simulated], str]:
    def tell(found: Simulated) -> str:
        value = found.costs[name]
        return "unknown" if value is None else si(value).rstrip()

    return tell


_ROWS: tuple[tuple[str, Callable[[Simulated], str]], ...] = (
    ("answers a second", lambda f: significant(f.answers_per_second)),
    ("tokens a second", lambda f: significant(f.tokens_per_second)),
    ("seconds of an answer, mean", lambda f: significant(f.mean)),
    ("  p50 p95 p99", lambda f: _seconds(f.latency)),
    ("seconds to a first token: p50 p95 p99", lambda f: _seconds(f.first)),
    ("answers in the making, mean", lambda f: significant(f.inside)),
    ("utilisation, small + large", lambda f: _both(f.utilisation, lambda v: f"{v:.0%}")),
    ("rows of a pass, small + large", lambda f: _both(f.rows, significant)),
    ("calls an answer, small + large", lambda f: _each(f, f.calls)),
    ("tokens read before calls, an answer", lambda f: _each(f, f.read)),
    ("tokens that caches let go, an answer", lambda f: _each(f, f.evicted)),
    ("FLOPs of an answer, papers", _cost("flops_paper")),
    ("  processed", _cost("flops_processed")),
    ("bytes read, an answer", _cost("bytes_read")),
    ("seconds of machines, an answer", _cost("seconds")),
)


def _each(found: Simulated, values: Mapping[Writer, int]) -> str:
    return _both({w: values[w] / found.answers for w in WRITERS}, significant)


def warnings(found: Mapping[str, Simulated]) -> Iterator[str]:
    """What a reader should not overlook."""
    for name, each in found.items():
        if not each.carried:
            yield (
                f"{_NAMES[name]}: {significant(each.answers_per_second)} of "
                f"{significant(each.offered or 0)} answers a second end, so that the queue grows; "
                "seconds are those of this run, and longer the longer it is"
            )
        elif each.offered is not None and each.mean > each.seconds / 5:
            yield (
                f"{_NAMES[name]}: an answer takes long beside the run of "
                f"{significant(each.seconds)} s: take more --answers"
            )


def verdict(found: Comparison) -> Iterator[str]:
    """Where routing pays, and from what that is reckoned."""
    yield found.sentence()
    if found.parts > 1:
        yield f"that is reckoned by one of {found.parts} equal parts of the machines"
