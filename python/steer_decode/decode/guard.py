"""Asking a policy or a signal, which may be a user's own: mistakes are named, with the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from steer_kernels import LogitStats, unpack

from ..core.transcript import WRITERS
from ..errors import SteerError
from ..policies import REDO, RESTART, Mend, Policy

_T = TypeVar("_T")


class Placed(Protocol):
    """An answer in the making that knows where its next token stands."""

    @property
    def place(self) -> str: ...


def consult(policy: Policy, where: str, ask: Callable[[], _T]) -> _T:
    """What a policy answers; a mistake in it is named, with the step.

    Raises:
        SteerError: it raised something, or answered with another word than it may.
    """
    try:
        answer = ask()
    except SteerError:
        raise
    except Exception as error:
        raise _failed(f"policy {policy.name!r}", where, error) from error
    after = where.startswith("after")
    answers = (*WRITERS, REDO, RESTART) if after else WRITERS
    for word in answer if policy.in_rounds and isinstance(answer, list) else [answer]:
        mends = after and isinstance(word, Mend) and isinstance(word.at, int)
        if not mends and word not in answers:
            *most, last = [*map(repr, answers), *(["Mend(i)"] if after else [])]
            raise SteerError(
                f"policy {policy.name!r} answered {word!r} {where}: "
                f"it must answer {', '.join(most)} or {last}"
            )
    return answer


def read_signal(
    policy: Policy, packed: Tensor, rows: list[list[float]], conversations: Sequence[Placed]
) -> list[float]:
    """The policy's signal, a number for each of ``conversations``.

    Args:
        packed: what ``sample_logits_packed`` returned, a row for each.
        rows: the same, as the host has read it.

    Raises:
        SteerError: the signal failed, or returned another shape or a NaN; the message names it and
            the step.
    """
    column = policy.signal.column
    if column is not None:
        return [row[column] for row in rows]
    values: list[float] = signal_of(policy, unpack(packed).stats, conversations).tolist()
    for value, conversation in zip(values, conversations, strict=True):
        _check_value(policy, value, conversation)
    return values


def read_look(policy: Policy, stats: LogitStats, conversation: Placed) -> float:
    """The policy's signal of one row, read before a step. Raises as :func:`read_signal`."""
    value = float(signal_of(policy, stats, [conversation])[0])
    _check_value(policy, value, conversation)
    return value


def _check_value(policy: Policy, value: float, conversation: Placed) -> None:
    if math.isnan(value):  # no threshold holds against it
        raise SteerError(f"signal {policy.signal.name!r} is NaN at {conversation.place}")


def signal_of(policy: Policy, stats: LogitStats, conversations: Sequence[Placed] = ()) -> Tensor:
    """The signal on the device: [B].

    Raises:
        SteerError: as :func:`read_signal`.
    """
    signal = policy.signal
    try:
        values = signal.read(stats)
        if values.shape == stats.max_logit.shape:
            return values
    except Exception as error:
        raise _failed(f"signal {signal.name!r}", _places(conversations), error) from error
    raise SteerError(
        f"signal {signal.name!r} must return one number a row, [{stats.max_logit.shape[0]}], "
        f"got shape {list(values.shape)} {_places(conversations)}"
    )


def _places(conversations: Sequence[Placed]) -> str:
    return "at " + (", ".join(dict.fromkeys(c.place for c in conversations)) or "a token")


def _failed(what: str, where: str, error: Exception) -> SteerError:
    return SteerError(f"{what} failed {where}: {type(error).__name__}: {error}")
