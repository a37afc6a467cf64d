"""How many tokens may stay unread before answers differ.

A promise is about answers, and needs no label: where a routed answer says what the large model's
own answer says, nothing is lost, so accuracy is lost on at most as many prompts as answers differ
on. On prompts like those to come both are written, greedily, at falling bars of sureness ``sure``;
a bar holds for a loss L if so few of n answers differing, x, would be seen with a probability of at
most 1 - ``CONFIDENCE`` were the share of differing answers above L: P(Binomial(n, L) <= x). Bars
are tried from the safest on, and the first that fails ends it (fixed-sequence testing, as in Learn
then Test, Angelopoulos et al., arXiv 2110.01052), so the last that held does at the confidence of
one test, however many bars there are.

What is assumed: prompts to come are exchangeable with those of the calibration, and answered
greedily, to the same length. Above temperature 0 two answers of the large model itself differ, so
nothing can be counted; there every draft is read, which loses nothing at any temperature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from ...util import documents
from .file import FittedFile, Phrases

CONFIDENCE = 0.95


def fewest_prompts(loss: float) -> int:
    """How many prompts a promise needs if none differs."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-loss)) if loss < 1 else 1


def chance_of_so_few(differ: int, asked: int, loss: float) -> float:
    """P(Binomial(asked, loss) <= differ)."""
    if loss <= 0 or loss >= 1:
        return float(loss <= 0 or differ >= asked)
    log_odds = math.log(loss) - math.log1p(-loss)
    term = asked * math.log1p(-loss)
    total = 0.0
    for i in range(differ + 1):
        total += math.exp(term)
        if i < asked:
            term += math.log(asked - i) - math.log(i + 1) + log_odds
    return min(1.0, total)


@dataclass(frozen=True)
class Rung:
    """A bar of sureness, and answers that differed.

    Attributes:
        sure: tokens at least so sure may stay unread.
        asked: answers that were compared.
        differ: how many of them said something else than the large model's own.
    """

    sure: float
    asked: int
    differ: int


@dataclass(frozen=True)
class Promise(FittedFile):
    """What was found out about a pair's answers, without labels.

    Attributes:
        pair: fingerprint of the pair.
        part, least: of the drafts, as :class:`~steer_decode.policies.BothSides` takes them.
        bars: from the safest on.
        settings: for the reader, how it was made.
    """

    KIND: ClassVar[str] = "both-sides-promise"

    pair: str
    part: int
    least: float
    bars: Sequence[Rung]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def sure(self, loss: float) -> float:
        """The lowest bar that holds for ``loss``.

        1 where none does, and every draft is read.
        """
        kept = 1.0
        for bar in self.bars:
            if chance_of_so_few(bar.differ, bar.asked, loss) > 1 - CONFIDENCE:
                break
            kept = bar.sure
        return kept

    @classmethod
    def phrases(cls, kind: str) -> Phrases:
        return Phrases(
            "promise",
            "was made",
            "is no promise of router 'both-sides'",
            "make one with `steer calibrate --router both-sides --promise`",
        )

    @classmethod
    def read(cls, value: Any, kind: str) -> Promise:
        made = cls(**_FILE(value))
        lowest = min((bar.sure for bar in made.bars), default=1.0)
        if made.least >= 1 or made.least > lowest:
            raise documents.Fault(f"least is {made.least:g}, and the lowest bar {lowest:g}")
        return made

    def members(self) -> Mapping[str, Any]:
        return asdict(self)


_COUNT = documents.whole(0, 10**6)  # a sum goes over so many terms
_BAR = documents.record({"sure": documents.number(0, 1), "asked": _COUNT, "differ": _COUNT})


def _bars(value: object) -> list[Rung]:
    bars = [Rung(**_BAR(each)) for each in documents.listed(documents.anything)(value)]
    if any(low.sure >= high.sure for high, low in pairwise(bars)):
        raise documents.Fault("bars do not fall")
    if any(bar.differ > bar.asked for bar in bars):
        raise documents.Fault("more answers differ than were compared")
    return bars


_FILE = documents.record(
    {
        "pair": documents.text,
        "part": documents.whole(1),
        "least": documents.number(0, 1),
        "bars": _bars,
    },
    {"settings": documents.mapped(documents.anything)},
)
