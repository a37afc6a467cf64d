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


class Verified:
    """Tokens that the large model lets stay, not yet appended.

    Args:
        draws: tokens that stay, and one more.
        stayed: how many of them are drafts.
        read: each model's read mark, as far as what it has read stays.
    """

    def __init__(self, draws: list[Draw], stayed: int, read: dict[Writer, int]) -> None:
        self._draws, self._stayed, self._read = draws, stayed, read

    def __bool__(self) -> bool:
        return bool(self._draws)

    def append_to(self, answer: Written, step: Step) -> Generator[Any, Any, None]:
        """Append them, to the end of the step at most.

        Those behind it may begin the next one.
        """
        text = answer.transcript
        while self._draws and not answer.over(step):
            draw = self._draws.pop(0)
            yield answer.append(step, draw, "large", drafted=self._stayed > 0)
            self._stayed -= 1
        text.unread(len(text))
        for writer in WRITERS:  # what was appended just now had been read before
            text.read[writer] = max(text.read[writer], min(self._read[writer], len(text)))


def speculate(
    answer: Written, drafting: Drafting, step: Step, verified: Verified | None
) -> Generator[Any, Any, Verified | None]:
    """Write ``step`` to its end by drafts.

    Returns what has been verified beyond it.

    Args:
        answer: that writes it.
        drafting: its own.
        step: of the large model.
        verified: what was left of the step before, if nothing has been read since.
    """
    while True:
        if verified:
            yield from verified.append_to(answer, step)
        if answer.over(step):
            return verified or None
        verified = yield from _next(answer, drafting, step)


def _next(answer: Written, drafting: Drafting, step: Step) -> Generator[Any, Any, Verified]:
    start, text = len(answer.transcript), answer.transcript
    try:
        yield from _propose(answer, drafting)
        drafted = len(answer.drafts)
        draws: list[Draw] = yield Verify() if drafted else Write("large")
        stayed = len(draws) - 1 if drafted else 0
        read = {w: min(text.read[w], start + stayed) if drafted else text.read[w] for w in WRITERS}
    finally:  # wherever it ends, no draft is left in the text
        text.truncate(start)
        answer.drafts = []
    if drafted:
        answer.length.told(drafted, stayed)
        step.drafts.append((drafted, stayed))
    if drafting.source == "small":
        answer.written["small"] += drafted
        answer.discarded["small"] += drafted - stayed
    return Verified(draws, stayed, read)


def _propose(answer: Written, drafting: Drafting) -> Generator[Any, Any, None]:
    """Let drafts stand at the end of the transcript, as many as there is room for."""
    text = answer.transcript
    most = min(answer.length.tokens, answer.limit - len(text) - 1)
    if drafting.source == "prompt":
        answer.drafts = [Draw(token, 0.0) for token in lookup(text.ids, drafting.match, most)]
        for draft in answer.drafts:
            text.append(draft.token, "small")
        return
    with answer.proposing():
        while len(answer.drafts) < most:
            answer.most = most - len(answer.drafts)
            for draw in (yield Write("small")):
                unsure = drafting.least and draw.value < drafting.least
                if unsure or not answer.propose(draw):
                    text.unread(len(text))  # what was drawn beyond
                    return
