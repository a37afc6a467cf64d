"""From which agreement on lossless speculation saves, by each cost.

Let a be the share of places at which a draft stays, each a coin of its own, k the tokens of a
draft, and r what a token of the small model costs beside one of the large model. A pass of the
large model then brings

    E(a, k) = 1 + a + ... + a^k = (1 - a^(k + 1)) / (1 - a)

tokens (Leviathan et al., arXiv 2211.17192, equation 1), for k tokens of the small model and a pass
over k + 1 tokens of the large one. Beside the large model alone, a token costs

    FLOPs as papers count them   (k r + 1) / E       reading is free
    FLOPs processed              (k r + a^k r + k + 1) / E   never below 1 + r: it cannot save; the
                                                     small model reads its last draft where all stay
    bytes                        (k r + m) / E       m: a pass over k + 1 tokens beside one over
                                                     one token; 1 but for mixtures of experts

Real drafts do not stay by coins of their own: places of doubt come in runs, so that a measured
agreement brings more tokens a pass than E says. :class:`Agreement` walks over what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.shape import ModelShape

LONGEST = 16  # tokens of a draft
_FINE = 1e-4  # of an agreement that is looked for


def tokens_a_pass(agreement: float, k: int) -> float:
    """Expected tokens of a pass over ``k`` drafts."""
    return float(sum(agreement**i for i in range(k + 1)))


@dataclass(frozen=True)
class Prices:
    """What tokens and passes cost, in one unit.

    Attributes:
        cost: "papers", "processed" or "bytes".
        small: of a token of the small model.
        large: of one of the large model alone.
        verify: of a pass of the large model over k drafts, for k from 1 on.
        last: of reading the last draft of those that all stay, by the small model.
    """

    cost: str
    small: float
    large: float
    verify: Sequence[float]
    last: float = 0.0

    def ratio(self, k: int, tokens: float, whole: float) -> float:
        """Cost of a token beside the large model alone.

        Args:
            k: tokens of a draft.
            tokens: that a pass brings.
            whole: share of passes in which every draft stays.
        """
        return (k * self.small + whole * self.last + self.verify[k - 1]) / tokens / self.large

    def least(self) -> float | None:
        """The least agreement from which speculation saves.

        With some length of draft; None where it never does.
        """

        def saves(agreement: float) -> bool:
            lengths = range(1, len(self.verify) + 1)
            a = agreement
            return any(self.ratio(k, tokens_a_pass(a, k), a**k) < 1 for k in lengths)

        if not saves(1.0):
            return None
        low, high = 0.0, 1.0
        while high - low > _FINE:
            middle = (low + high) / 2
            low, high = (low, middle) if saves(middle) else (middle, high)
        return high


def prices(
    small: ModelShape, large: ModelShape, context: int, rows: int = 1
) -> tuple[Prices, Prices, Prices]:
    """Prices by each cost.

    Behind ``context`` tokens, of ``rows`` answers at a time.
    """
    lengths = range(1, LONGEST + 1)
    return (
        Prices("papers", 2.0 * small.active, 2.0 * large.active, [2.0 * large.active] * LONGEST),
        Prices(
            "processed",
            float(small.flops(1, context)),
            float(large.flops(1, context)),
            [float(large.flops(k + 1, context, k + 1)) for k in lengths],
            float(small.flops(1, context)),
        ),
        Prices(
            "bytes",
            small.bytes_read(context, rows),
            large.bytes_read(context, rows),
            [large.bytes_read(context, rows, rows * (k + 1)) for k in lengths],
        ),
    )


@dataclass(frozen=True)
class Agreement:
    """Where two models would have written the same token.

    Attributes:
        answers: of each answer of the large model, for each token whether it is the small model's
            likeliest in that place.
    """

    answers: Sequence[Sequence[bool]]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.answers))

    @property
    def rate(self) -> float:
        """Share of places at which the two agree."""
        return sum(map(sum, self.answers)) / max(1, self.tokens)

    def walk(self, k: int) -> tuple[float, float]:
        """Go over the answers as greedy speculation does.

        Returns:
            Tokens of a pass of the large model over ``k`` drafts, and the share of passes in which
            all of them stayed.
        """
        passes = whole = 0
        for agrees in self.answers:
            at = 0
            while at < len(agrees):
                passes += 1
                end = min(at + k, len(agrees))
                while at < end and agrees[at]:
                    at += 1
                whole += at == end
                at += 1  # the large model's own
        return self.tokens / max(1, passes), whole / max(1, passes)

    def best(self, prices: Prices) -> tuple[int, float]:
        """The length of draft that costs least.

        With its cost beside the large model alone.
        """
        ratios = {k: prices.ratio(k, *self.walk(k)) for k in range(1, len(prices.verify) + 1)}
        k = min(ratios, key=ratios.__getitem__)
        return k, ratios[k]


def speculation_facts(prices: Sequence[Prices], agreement: Agreement | None) -> dict[str, Any]:
    """Plain data: from which agreement on speculation saves.

    And what was measured of this pair.
    """
    facts: dict[str, Any] = {"saves_from": {each.cost: each.least() for each in prices}}
    if agreement is not None and agreement.tokens:
        best = {each.cost: agreement.best(each) for each in prices}
        facts |= {
            "agreement": agreement.rate,
            "measured_on": {"answers": len(agreement.answers), "tokens": agreement.tokens},
            "tokens_a_pass": {k: agreement.walk(k)[0] for k in (1, 2, 4, 8, 16)},
            "best": {cost: {"k": k, "ratio": ratio} for cost, (k, ratio) in best.items()},
        }
    return facts
