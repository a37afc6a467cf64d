"""Answers kept over an interruption of long work.

Number for number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..core.events import RoutedOutput
from ..core.trace import Step
from ..core.trace_file import OUTPUT, output_of
from ..util.partial import Partial
from ..util.text import finite

_LISTS = ("values", "graded", "answers")
_FIGURES = ("before", "posterior")


def kept_answers(
    kept: Partial, make: Callable[[], Iterable[RoutedOutput]]
) -> Iterator[RoutedOutput]:
    """The next batch of answers.

    Those that ``kept`` has, or those of ``make``, which it keeps.
    """
    return kept.batch(make, packed, unpacked)


def packed(output: RoutedOutput) -> dict[str, Any]:
    """Plain data of an answer.

    Numbers that are not finite are among it; steps go without what is at its default.
    """
    data = output.to_dict()
    blank = Step(-1, "small").to_dict()
    needed = ("index", "writer", "token_ids", "text")
    trace = output.trace.to_dict()
    steps = [
        {k: v for k, v in step.to_dict().items() if k in needed or (k != "score" and v != blank[k])}
        for step in output.trace.steps
    ]
    return {**data, "trace": {**trace, "steps": steps}}


def unpacked(data: Any) -> RoutedOutput:
    """The inverse of :func:`packed`; ValueError or TypeError for anything else."""
    output = output_of(OUTPUT(finite(data)))
    # The checks know finite numbers only, and these are to be what they were.
    for step, record in zip(output.trace.steps, data["trace"]["steps"], strict=True):
        for name in _LISTS:
            setattr(step, name, [float(value) for value in record.get(name, ())])
        for name in _FIGURES:
            if record.get(name) is not None:
                setattr(step, name, float(record[name]))
    return output
