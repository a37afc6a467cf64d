"""Checks of what policies and engines answer.

Both may be anybody's, so mistakes are named, with the step or the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..core.requests import Draw, Graded, Look, Looked, Question, Read, Row, Verify, Write
from ..core.trace import Step, Trace
from ..core.transcript import WRITERS, Writer
from ..errors import SteerError
from ..policies import REDO, RESTART, Mend, Policy, StepStart, Verdict
from ..util.checks import fraction

_T = TypeVar("_T")
_AFTER = (*WRITERS, REDO, RESTART)


def consult(policy: Policy, start: StepStart) -> Writer:
    """Ask a policy who writes a step.

    Raises:
        SteerError: it raised something, or answered with another word than it may.
    """
    where = f"before step {start.index}"
    word = _asked(policy, where, lambda: policy.before_step(start))
    if not isinstance(word, str) or word not in WRITERS:
        raise _wrong(policy, where, word, WRITERS)
    return word


def judged(policy: Policy, step: Step, trace: Trace) -> Verdict:
    """Ask a policy about a step; errors as :func:`consult`."""
    where = f"after step {step.index}"
    return _checked(policy, where, _asked(policy, where, lambda: policy.judge(step, trace)))


def consult_round(policy: Policy, steps: Sequence[Step]) -> list[Verdict] | list[SteerError]:
    """Ask a policy for a verdict on each of ``steps``.

    They have one index. If the policy fails, each gets its error in place of a verdict.
    """
    where = f"after step {steps[0].index}"
    try:
        answers = _asked(policy, where, lambda: list(policy.after_round(steps)))
        if len(answers) == len(steps):
            return [_checked(policy, where, answer) for answer in answers]
        raise SteerError(
            f"policy {policy.name!r} answered {len(answers)} times for {len(steps)} "
            f"steps {where}: it must answer once for each"
        )
    except SteerError as error:
        return [error] * len(steps)


def _asked(policy: Policy, where: str, ask: Callable[[], _T]) -> _T:
    """The policy's answer, unchecked; what it raises is worded."""
    try:
        return ask()
    except SteerError:
        raise
    except Exception as error:
        raise SteerError(
            f"policy {policy.name!r} failed {where}: {type(error).__name__}: {error}"
        ) from error


def _checked(policy: Policy, where: str, answer: Any) -> Verdict:
    """A policy's answer after a step, as a verdict."""
    verdict = Verdict.of(answer)
    word: Any = verdict.what
    mends = isinstance(word, Mend) and isinstance(word.at, int)
    if not mends and not (isinstance(word, str) and word in _AFTER):
        raise _wrong(policy, where, answer, _AFTER, "Mend(i)")
    if verdict.posterior is None:
        return verdict
    try:
        return Verdict(word, fraction("posterior", verdict.posterior))
    except SteerError as error:
        raise SteerError(f"policy {policy.name!r} answered {answer!r} {where}: {error}") from None


def _wrong(
    policy: Policy, where: str, answer: object, words: Sequence[str], *more: str
) -> SteerError:
    *most, last = [*map(repr, words), *more]
    return SteerError(
        f"policy {policy.name!r} answered {answer!r} {where}: "
        f"it must answer {', '.join(most)} or {last}"
    )


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
    if isinstance(reply, Exception):
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
    elif isinstance(request, Verify) and isinstance(reply, list):
        drafts = [draft.token for draft in answer.drafts]
        stay = [draw.token for draw in reply[:-1]]
        if not 0 < len(reply) <= len(drafts) + 1 or stay != drafts[: len(stay)]:
            why = f"of {len(drafts)} drafts it let {len(stay)} stay that are others"
        elif any(draw.value != draw.value for draw in reply):
            why = "it gave a score that is NaN"
    elif isinstance(request, Look) and isinstance(reply, Looked):
        unknown = reply.goes_on is None and reply.value != reply.value
        why = "it gave a score that is NaN" if unknown else ""
    elif not isinstance(request, Read | Question) or not isinstance(reply, Graded):
        why = f"it replied {type(reply).__name__} to {type(request).__name__}"
    if not why:
        return reply
    return SteerError(f"the engine of the {writer} model broke its contract in row {row}: {why}")
