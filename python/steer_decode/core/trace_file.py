"""Traces as they stand in a file.

What may be in one, and how it is read back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..util.documents import (
    Check,
    Fault,
    anything,
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
from .cost import Cost, Usage
from .events import RoutedOutput
from .trace import Step, Trace
from .transcript import WRITERS

STOPS = ("", "eos", "max_new_tokens", "context", "criteria", "interrupted", "error", "server")
"""Why an answer ended; empty while it has not.

The last two are faults: of anything, and of a server that runs a model.
"""

_COUNT, _FIGURE, _AMOUNT = whole(), optional(number()), number(0)
_IDS = listed(_COUNT)


def _log_probs(value: Any) -> list[float]:
    """Numbers of which those that are not finite were written as null."""
    return [math.nan if each is None else each for each in listed(_FIGURE)(value)]


def drafts(value: Any) -> list[tuple[int, int]]:
    """Read verified drafts: tokens, and how many stayed."""
    found = []
    for each in listed(listed(_COUNT))(value):
        if len(each) != 2 or each[0] < 1 or each[1] > each[0]:
            raise Fault("must be pairs: tokens of a draft, and how many of them stayed")
        found.append((each[0], each[1]))
    return found


_STEP = record(
    {"index": _COUNT, "writer": one_of(WRITERS), "token_ids": _IDS, "text": text},
    {
        **dict.fromkeys(("values", "graded", "answers"), _log_probs),
        **dict.fromkeys(("before", "posterior"), _FIGURE),
        **dict.fromkeys(("prefilled", "probed", "inherited"), _COUNT),
        **dict.fromkeys(("discarded", "closed", "ended"), boolean),
        **dict.fromkeys(("counted", "likeliest"), listed(boolean)),
        **dict.fromkeys(("others", "ends"), _IDS),
        "milliseconds": _AMOUNT,
        "refused": optional(_COUNT),
        "drafts": drafts,
    },
    others="dropped",  # its score, which follows from the rest
)


def step_of(value: Any) -> Step:
    """Read a step.

    Raises:
        Fault: a place in it points beyond its tokens or its text.
    """
    step = Step(**_STEP(value))
    n, shown = len(step.token_ids), len(step.ends)
    # An interrupt may have fallen between a token and what is told of it.
    for name in ("values", "counted", "ends"):
        if len(getattr(step, name)) > n:
            raise Fault(f"is of more than the {n} tokens of token_ids").within(name)
    if step.ends != sorted(step.ends) or (shown and step.ends[-1] > len(step.text)):
        raise Fault("must rise, within the text").within("ends")
    if step.others != sorted(set(step.others)) or (step.others and step.others[-1] >= shown):
        raise Fault(f"must rise, within the {shown} tokens that have ends").within("others")
    if step.refused and step.refused > shown:
        raise Fault(f"points beyond the {shown} tokens that have ends").within("refused")
    if step.inherited > n:
        raise Fault(f"is more than {n} tokens").within("inherited")
    return step


_USAGE = record(
    {},
    {
        **dict.fromkeys(("written", "discarded", "forwards", "processed"), _COUNT),
        "flops": _AMOUNT,
        "bytes_read": _AMOUNT,
    },
    others="dropped",
)
_COST = record(
    {
        **dict.fromkeys(("flops_paper", "flops_processed", "bytes_read", "seconds"), _AMOUNT),
        **dict.fromkeys(WRITERS, lambda value: Usage(**_USAGE(value))),
        **dict.fromkeys(("large_token_share", "large_step_share"), number(0, 1)),
        **dict.fromkeys(("hand_overs", "discarded_tokens"), _COUNT),
    },
    others="dropped",
)
_TRACE = record(
    {
        "policy": text,
        "signal": text,
        "prompt_ids": _IDS,
        "steps": listed(step_of),
        "stop_reason": one_of(STOPS),
    },
    others="dropped",
)
_MODEL = record({"name": text, "parameters": _COUNT}, {"active": _COUNT}, others="dropped")
_OUTPUT = {
    "text": text,
    "token_ids": _IDS,
    "trace": lambda value: Trace(**_TRACE(value)),
    "cost": lambda value: Cost(**_COST(value)),
}
OUTPUT: Check = record(_OUTPUT, others="dropped")
"""An answer alone, as ``RoutedOutput.to_dict`` writes it, its trace and cost made."""

ANSWER: Check = record(
    {
        "prompt": text,
        "problem": optional(text),
        "correct": optional(boolean),
        "models": record(dict.fromkeys(WRITERS, _MODEL)),
        "options": mapped(anything),
        **_OUTPUT,
    },
    others="dropped",
)
"""An answer as ``steer generate --trace`` writes it, its trace and cost made."""


def output_of(answer: Mapping[str, Any]) -> RoutedOutput:
    """The output in what :data:`ANSWER` or :data:`OUTPUT` returned."""
    return RoutedOutput(*(answer[name] for name in ("text", "token_ids", "trace", "cost")))
