"""How an answer has the large model's tokens drafted.

The small model writes a few tokens behind the transcript, which nobody is shown; the large one
reads all of them in one pass and says which stay (`core/drafting.py` has the rules). What stays is
the large model's: its signal, its step. Both read marks keep what was read of it, so nothing is
read twice but the token in which the two differ.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ..core.drafting import Drafting, lookup
from ..core.requests import Draw, Verify, Write
from ..core.trace import Step
from ..core.transcript import WRITERS, Writer
from .written import Written


class Settled:
    """Tokens that will stand, not yet appended.

    Args:
        draws: the tokens.
        drafted: how many of them are drafts, from the first on.
        writer: whose the drafts are: the large model's that has verified them, or the small one's.
        read: each model's read mark, as far as what it has read stays.
    """

    def __init__(
        self, draws: list[Draw], drafted: int, writer: Writer, read: dict[Writer, int]
    ) -> None:
        self._draws, self._drafted, self._writer, self._read = draws, drafted, writer, read

    def __bool__(self) -> bool:
        return bool(self._draws)

    def append_to(self, answer: Written, step: Step) -> Generator[Any, Any, None]:
        """Append them, to the end of the step at most.

        Those behind it may begin the next one.
        """
        text = answer.transcript
        while self._draws and not answer.over(step):
            draw, drafted = self._draws.pop(0), self._drafted > 0
            if drafted and self._writer != step.writer:
                step.others.append(len(step.token_ids))
            yield answer.append(step, draw, self._writer if drafted else "large", drafted)
            self._drafted -= 1
        text.unread(len(text))
        for writer in WRITERS:  # what was appended just now had been read before
            text.read[writer] = max(text.read[writer], min(self._read[writer], len(text)))


def speculate(
    answer: Written, drafting: Drafting, step: Step, settled: Settled | None
) -> Generator[Any, Any, Settled | None]:
    """Write ``step`` to its end by drafts.

    Returns what will stand beyond it.

    Args:
        answer: that writes it.
        drafting: its own.
        step: of the large model.
        settled: what was left of the step before, if nothing has been read since.
    """
    while True:
        if settled:
            yield from settled.append_to(answer, step)
        if answer.over(step):
            return settled or None
        settled = yield from _next(answer, drafting, step)


def _next(answer: Written, drafting: Drafting, step: Step) -> Generator[Any, Any, Settled]:
    start, text = len(answer.transcript), answer.transcript
    writer: Writer = "large"
    try:
        doubted = yield from _propose(answer, drafting)
        draws, drafted = list(answer.drafts), len(answer.drafts)
        stayed = drafted
        if not drafted:
            draws = yield Write("large")
        elif doubted:
            draws = yield Verify()
            stayed = len(draws) - 1
        else:
            writer = "small"
        read = {w: min(text.read[w], start + stayed) if drafted else text.read[w] for w in WRITERS}
    finally:  # wherever it ends, no draft is left in the text
        text.truncate(start)
        answer.drafts = []
    if drafted and writer == "large":
        answer.length.told(drafted, stayed)
        step.drafts.append((drafted, stayed))
    if drafting.source == "small":
        answer.written["small"] += drafted
        answer.discarded["small"] += drafted - stayed
    return Settled(draws, stayed, writer, read)


def _propose(answer: Written, drafting: Drafting) -> Generator[Any, Any, bool]:
    """Let drafts stand at the end of the transcript, as many as there is room for.

    Returns whether the large model is to read them.
    """
    text = answer.transcript
    room = answer.limit - len(text)
    most = min(answer.length.tokens, room - 1)  # what verifies them writes one more
    if drafting.source == "prompt":
        answer.drafts = [Draw(token, 0.0) for token in lookup(text.ids, drafting.match, most)]
        for draft in answer.drafts:
            text.append(draft.token, "small")
        return True
    doubted = drafting.sure >= 1
    if not doubted:
        most = min(answer.length.tokens, room)
    with answer.proposing():
        while len(answer.drafts) < most:
            answer.most = most - len(answer.drafts)
            for draw in (yield Write("small")):
                unsure = drafting.gated and draw.value < drafting.least
                doubted |= drafting.gated and draw.value < drafting.sure
                if unsure or not answer.propose(draw):
                    most = 0
                    break
        text.unread(len(text))  # what was drawn beyond
    if doubted and len(answer.drafts) == room:
        answer.drafts = answer.drafts[:-1]
        text.truncate(len(text) - 1)
    return doubted
