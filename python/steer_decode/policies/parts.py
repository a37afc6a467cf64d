"""Drafts of ``both-sides`` that are judged in parts.

A draft is judged in parts of so many tokens, not whole steps, so that none runs on after it went
wrong: a part of which every token is sure stays unread, any other is verified by ``accept``
(``core/drafting.py``), and a part ends before a token below ``least``. The exact rule tosses the
coin of speculative decoding, so with ``sure=1`` every token has the large model's distribution at
any temperature; "cascade" is ``keep`` relative to the large model's best, and "typical" is gated by
its entropy.

With ``loss`` a promise says what ``sure`` may be (``fitted/promise.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..core.drafting import Drafting, Rule
from ..core.signals import Signal, get_signal
from ..errors import SteerError
from ..util import checks
from .fitted.promise import Promise

SURE = 0.95
SCALES = {"margin": (0.0, 1.0), "max-prob": (0.0, 1.0)}


def parts(
    part: int | Literal["auto"],
    accept: Rule | None,
    least: float | None,
    sure: float | None,
    signal: str | Signal | None,
) -> Drafting:
    """Check the settings of parts; see :class:`~steer_decode.policies.BothSides`.

    Raises:
        SteerError: a value out of its range, or a signal without a scale of its own.
    """
    read = get_signal("max-prob" if signal is None else signal)
    if read.name not in SCALES:
        raise SteerError(f"signal must be margin or max-prob, got {read.name}")
    if not (isinstance(part, str) and part == "auto") and checks.whole("part", part) < 1:
        raise SteerError(f"part must be 'auto' or at least 1 token, got {part}")
    return Drafting(
        part,
        accept or "exact",
        least=0.0 if least is None else checks.fraction("least", least),
        sure=SURE if sure is None else checks.fraction("sure", sure),
        signal=read.name,  # type: ignore[arg-type]
        beyond=True,
    )


def alone(what: str, others: Mapping[str, object]) -> None:
    """Refuse settings that do not go with ``what``.

    Raises:
        SteerError: one of ``others`` is set.
    """
    for name, value in others.items():
        if value is not None:
            reason = "the promise sets it" if what == "loss" else "it is for drafts of whole steps"
            raise SteerError(f"give either {what} or {name}: {reason}")


def loaded_promise(path: object) -> tuple[Promise, str]:
    """A promise, and the file it came from.

    Raises:
        SteerError: none is given, or the file holds none.
    """
    if path is None:
        raise SteerError(
            "both-sides:loss=... needs a promise for the pair, path=FILE: make one with "
            "`steer calibrate --router both-sides --promise`"
        )
    return checks.loaded("path", path, Promise, Promise.load)


def promised(promise: Promise, loss: float) -> Drafting:
    """Parts whose bar holds for ``loss``."""
    return parts(promise.part, "exact", promise.least, promise.sure(loss), None)
