"""What becomes of a draft that does not simply stay.

It is graded, written again, mended at a token, or begun anew with all that came before it. To take
back is to shorten the transcript, which lowers both read marks; the engines roll their caches back
when they next look.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from ..core.events import Event, HandOver, TextDelta
from ..core.log_probs import LogProbs
from ..core.requests import Read, Write
from ..core.trace import Step
from ..core.transcript import other
from ..errors import SteerError
from ..policies import Mend, Policy
from .written import Written


def kept_of(policy: Policy, step: Step, mend: Mend) -> Step:
    """The start of a step, up to a refused token.

    It takes the place of ``step``, which had that token.

    Raises:
        SteerError: the token is none that the step's writer wrote since it was mended last.
    """
    at = mend.at
    first = len(step.token_ids) - step.unread
    if not first <= at < len(step.token_ids):
        raise SteerError(
            f"policy {policy.name!r} wants token {at} of step {step.index} mended: it "
            f"must be one of {first} to {len(step.token_ids) - 1}, which {step.writer} wrote "
            "since the step was mended last"
        )
    step.refused = at
    return step.until(at, other(step.writer) if mend.rest else step.writer)


def mend(answer: Written, step: Step, rest: bool) -> Generator[Any, Any, None]:
    """Show what stays of a draft, and mend it.

    The other model writes the next token. With ``rest`` that is the step's writer, who is about to
    go on.
    """
    known: Sequence[LogProbs | None] = step.log_probs or [None] * len(step.token_ids)
    for token, author, found in zip(step.token_ids, step.writers, known, strict=True):
        text = answer.detokenizer.push(token)
        step.text += text
        step.ends.append(len(step.text))
        yield TextDelta(text, token, author, step.index, found)
    if rest:
        return
    yield from _by_the_other(answer, step, 1)


def lead(answer: Written, step: Step) -> Generator[Any, Any, None]:
    """Let the large model write the first tokens of ``step``.

    As many as the policy says; the step is the small model's.
    """
    if answer.policy.lead:
        yield from _by_the_other(answer, step, answer.policy.lead)


def _by_the_other(answer: Written, step: Step, n: int) -> Generator[Any, Any, None]:
    """The next ``n`` tokens of ``step`` by the other model, to its end at most."""
    writer, transcript = other(step.writer), answer.transcript
    foreign = transcript.foreign(writer)
    step.prefilled += foreign
    yield HandOver(step.index, writer, foreign)
    end = len(step.token_ids) + n
    while len(step.token_ids) < end and not answer.over(step):
        answer.most = end - len(step.token_ids)
        draws = yield Write(writer)
        answer.most = None
        for draw in draws:
            step.others.append(len(step.token_ids))
            yield answer.append(step, draw, writer)
            if answer.over(step):
                break
    transcript.unread(len(transcript))  # what was drawn beyond the end
    if not answer.over(step):
        yield HandOver(step.index, step.writer, transcript.foreign(step.writer))


def grade(answer: Written, step: Step) -> Generator[Any, Any, None]:
    """Have a draft read by the large model.

    Only if the policy wants that.
    """
    question, policy = answer.question, answer.policy
    if question is not None:
        # A context that is too full for the question leaves the draft without an answer.
        if len(answer.transcript) + len(question.ids) <= answer.routing.pair.max_length:
            step.answers = (yield question).log_probs
    elif policy.grades and step.unread and policy.wants_grade(step):
        step.graded, step.likeliest = yield Read(step.unread)


def again(policy: Policy, index: int) -> SteerError:
    """The error of a policy that takes back twice.

    The step that it takes back was written again already.
    """
    return SteerError(
        f"policy {policy.name!r} took step {index} back twice: "
        "a step that was written again has to stay"
    )


def held_back(
    running: Generator[Any, Any, None], restarted: Callable[[], bool]
) -> Generator[Any, Any, None]:
    """The items of ``running``, with its events held back.

    Events come at its end, or when the answer begins anew. A policy that may answer "restart"
    judges the whole answer. What the reader has been shown cannot be taken off the screen, so the
    events of the draft wait, and come in the order in which they happened. Requests go out at once,
    and the reply goes in.

    Args:
        running: an answer.
        restarted: whether the answer has begun anew; that happens once.
    """
    held: list[Event] = []
    reply: Any = None
    while True:
        try:
            item = running.send(reply)
        except StopIteration:
            yield from held
            return
        reply = None
        if not isinstance(item, Event):
            reply = yield item
            continue
        held.append(item)
        if restarted():
            yield from held
            yield from running
            return
