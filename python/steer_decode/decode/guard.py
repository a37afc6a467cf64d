"""Checks of what policies and engines answer.

Both may be anybody's, so mistakes are named, with the step or the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..core.requests import Draw, Graded, Look, Looked, Question, Read, Row, Write
from ..core.trace import Step
from ..core.transcript import WRITERS, Writer
from ..errors import SteerError
from ..policies import REDO, RESTART, Mend, Policy

_T = TypeVar("_T")


def consult(policy: Policy, where: str, ask: Callable[[], _T]) -> _T:
    """Ask a policy, and name a mistake with its step.

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


def consult_round(policy: Policy, steps: Sequence[Step]) -> list[Any]:
    """Ask a policy for a word on each of ``steps``.

    They have one index. If the policy fails, each gets its error in place of a word.
    """
    index = steps[0].index
    try:
        words = consult(policy, f"after step {index}", lambda: list(policy.after_round(steps)))
        if len(words) == len(steps):
            return words
        raise SteerError(
            f"policy {policy.name!r} answered {len(words)} times for {len(steps)} "
            f"steps after step {index}: it must answer once for each"
        )
    except SteerError as error:
        return [error] * len(steps)


def sound(
    reply: object, request: object, answer: Row, writer: Writer, row: int, mark: int
) -> object:
    """``reply`` to ``request``, checked against the contract of an engine.

    In place of a reply that breaks the contract, an error that names the row.

    Args:
        answer: whose request it is.
        writer, row: of the engine, for the message.
        mark: the read mark before it was asked.
    """
    why = ""
    if isinstance(reply, SteerError):
        return reply
    if answer.transcript.read[writer] < mark:
        why = f"its read mark went back from {mark} to {answer.transcript.read[writer]}"
    elif reply is None:
        why = "it replied nothing, and read nothing"
    elif isinstance(request, Write) and isinstance(reply, list):
        if not 0 < len(reply) <= answer.room:
            why = f"it wrote {len(reply)} tokens where 1 to {answer.room} were asked for"
        elif any(draw.value != draw.value for draw in reply if isinstance(draw, Draw)):
            why = "it gave a score that is NaN"
    elif isinstance(request, Look) and isinstance(reply, Looked):
        why = "it gave a score that is NaN" if reply.value != reply.value else ""
    elif not isinstance(request, Read | Question) or not isinstance(reply, Graded):
        why = f"it replied {type(reply).__name__} to {type(request).__name__}"
    if not why:
        return reply
    return SteerError(f"the engine of the {writer} model broke its contract in row {row}: {why}")
