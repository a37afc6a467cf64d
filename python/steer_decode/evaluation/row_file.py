"""What may stand in the files of a results folder.

In a line of answers or problems, and in its settings.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from ..core.trace_file import STOPS, drafts
from ..core.transcript import WRITERS
from ..util.documents import (
    Fault,
    boolean,
    listed,
    mapped,
    number,
    one_of,
    optional,
    record,
    text,
    whole,
)
from .rows import Asked, ResultRow, StepRecord

_COUNT, _FIGURE, _AMOUNT = whole(), optional(number()), number(0)
_LEVEL = optional(whole(-(2**31), 2**31))
_STEP = record(
    {"writer": one_of(WRITERS), "text": text, "tokens": _COUNT},
    {
        **dict.fromkeys(("score", "before", "posterior"), _FIGURE),
        **dict.fromkeys(("prefilled", "others", "inherited"), _COUNT),
        "discarded": boolean,
        "refused": optional(_COUNT),
        "patches": listed(listed(_COUNT)),
        "drafts": drafts,
        "right": optional(boolean),
        "scores": optional(mapped(_FIGURE)),
    },
)


def _step_of(value: Any) -> StepRecord:
    step = StepRecord(**_STEP(value))
    places = list(chain.from_iterable(step.patches))
    if any(len(patch) != 2 for patch in step.patches) or places != sorted(places):
        raise Fault("must be pairs of places that rise").within("patches")
    if places and places[-1] > len(step.text):
        raise Fault("points beyond the text").within("patches")
    if step.others > step.tokens:
        raise Fault(f"is more than {step.tokens} tokens").within("others")
    return step


_ROW = record(
    {
        **dict.fromkeys(("router", "domain", "problem"), text),
        "seed": whole(-(2**63), 2**63),
        "correct": boolean,
        **dict.fromkeys(("flops_paper", "flops_processed", "bytes_read", "seconds"), _AMOUNT),
        "hand_overs": _COUNT,
        "stop_reason": one_of(STOPS),
        "trace": listed(_step_of),
    },
    {
        "difficulty": _LEVEL,
        "error": text,
        "first_step": mapped(_AMOUNT),
        "large_passes": optional(_COUNT),
    },
)
_PROBLEM = record(
    dict.fromkeys(("domain", "problem", "prompt", "answer"), text),
    {"difficulty": _LEVEL, "checker": text},
)


BY_ROUTER = mapped(text)
_MODEL = record({}, {"name": text, "parameters": _COUNT}, others="kept")
_SIGNAL = record({}, {"name": text, "higher_is_surer": boolean})
_WORKERS = whole(1)
SETTINGS = record(
    {"routers": BY_ROUTER},
    {
        "signals": mapped(_SIGNAL),
        "about": record({}, dict.fromkeys(WRITERS, _MODEL)),
        "temperature": number(0),
        "cohort": _WORKERS,
        "workers": lambda value: (
            listed(_WORKERS)(value) if isinstance(value, list) else _WORKERS(value)
        ),
    },
    others="kept",
)
"""What ``settings.json`` tells of a run; whatever else is in it only has to stay the same."""


def row_of(value: Any) -> ResultRow:
    """Read a row whose fields a report can reckon with.

    Raises:
        Fault: one of them is not.
    """
    return ResultRow(**_ROW(value))


def problem_of(value: Any) -> Asked:
    """A problem; Fault where it is none."""
    return Asked(**_PROBLEM(value))
