"""A policy is asked; it may be a user's own, so its mistakes are named, with the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..core.transcript import WRITERS
from ..errors import SteerError
from ..policies import REDO, RESTART, Mend, Policy

_T = TypeVar("_T")


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
        raise SteerError(
            f"policy {policy.name!r} failed {where}: {type(error).__name__}: {error}"
        ) from error
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
