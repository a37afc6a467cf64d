"""Lossless speculation on texts that the large model wrote, without a run.

Lossless speculation writes what the large model alone would (arXiv 2211.17192, 2302.01318), so the
large model's own texts are its texts, and what remains to be known is where its passes begin. Let q
and p be the small and the large model's probabilities of the token that stands at a place, after
temperature and cuts. The rule accepts a draft x with min(1, p(x) / q(x)) and else draws from
max(0, p - q). So the token that stands there was an accepted draft with min(p, q), and a
correction with p - min(p, q): given the text, each place is a coin,

    w = min(1, q / p)       (greedy: 1 where the small model's likeliest token stands there, else 0)

independent of the others. A pass of k drafts goes on while coins fall heads; a tail, or the token
behind k heads, is the large model's own and ends the pass. The expected number of passes, of drafts
examined and accepted at each position, and the costs follow by a sum over places; no draw is made.

What is exact and what is not. Tokens a pass and acceptance by position are exact: for greedy texts
those of a run, else expectations over its draws. Costs are of a pass that reads k drafts and
whatever is pending, each draft a pass of the small model, one answer at a time; a run is cheaper
where the small model ends a draft itself, or no token is left to be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...core.shape import ModelShape
from ...core.transcript import Writer
from ...errors import SteerError
from .record import AnswerRecord, Array, RecordHeader
from .views import changes

LENGTHS = tuple(range(1, 17))
COSTS = ("flops_paper", "flops_processed", "bytes_read")


@dataclass(frozen=True)
class Passes:
    """What speculation with k drafts does on one text, expected.

    Attributes:
        began: [T], the probability that a pass begins at each place.
        after_all: [T], that one begins there behind a pass of which all drafts were accepted.
        examined, accepted: [k], drafts at each position of a pass that were looked at, and kept.
    """

    began: Array
    after_all: Array
    examined: Array
    accepted: Array

    @property
    def passes(self) -> float:
        """Passes of the large model."""
        return float(self.began.sum())


def acceptance(header: RecordHeader, answer: AnswerRecord) -> Array:
    """The coin w of each place of a text of the large model, [T].

    Raises:
        SteerError: the text was sampled, and the records do not have what it was drawn from.
    """
    small, large = answer.views["small"], answer.views["large"]
    if header.sampling.temperature == 0:
        return (small.likeliest == answer.ids).astype(np.float64)
    q, p = small.drawn, large.drawn
    if changes(header.sampling):
        if q is None or p is None:
            raise SteerError(
                "speculation cannot be replayed on texts sampled with "
                f"{header.sampling}: these records have log-probabilities before temperature and "
                "cuts only, and the rule compares those behind"
            )
    else:
        q, p = small.logprob, large.logprob
    with np.errstate(invalid="ignore"):  # both may be -inf, a token at the edge of the cuts
        ratio = np.where(np.isneginf(q), -np.inf, q - p)
    return np.exp(np.minimum(0.0, ratio))


def passes_of(coins: Array, k: int, limit: int | None = None) -> Passes:
    """Run the passes of k drafts over a text, in expectation.

    Args:
        coins: of :func:`acceptance`, [T].
        k: drafts of a pass.
        limit: most tokens of an answer: a pass drafts one less than there is room for.
    """
    n = len(coins)
    coin = coins.tolist()
    began, after_all = [0.0] * (n + k + 2), [0.0] * (n + k + 2)
    examined, accepted = [0.0] * k, [0.0] * k
    began[0] = 1.0
    for start in range(n):
        here = began[start]
        if not here:
            continue
        drafts = k if limit is None else max(0, min(k, limit - start - 1))
        for i, heads in enumerate(coin[start : start + drafts]):
            examined[i] += here
            began[start + i + 1] += here * (1 - heads)
            here *= heads
            accepted[i] += here
            if not here:
                break
        else:
            if start + drafts < n:  # the large model's own token behind them, for nothing
                began[start + drafts + 1] += here
                after_all[start + drafts + 1] += here * (drafts > 0)
    return Passes(
        np.array(began[:n]), np.array(after_all[:n]), np.array(examined), np.array(accepted)
    )


class SpeculationCosts:
    """Costs of speculation and of the large model alone, of one answer by itself.

    Args:
        shapes: of both models.
    """

    def __init__(self, shapes: Mapping[Writer, ModelShape]) -> None:
        small, large = shapes["small"], shapes["large"]
        self._small, self._large = small, large
        self._pass = lru_cache(None)(self._pass_at)

    def _pass_at(self, k: int, context: int, pending: int) -> Array:
        """[3] of a pass behind ``context`` tokens, of which both have yet to read ``pending``."""
        small, large = self._small, self._large
        past = context - pending
        return np.array(
            [
                2.0 * k * small.active + 2.0 * large.active,
                large.flops(pending + k, past, k + 1)
                + small.flops(pending, past)
                + small.flops(k - 1, context, k - 1),
                large.bytes_read(past, 1, pending + k)
                + small.bytes_read(past, 1, pending)
                + small.bytes_of_passes(k - 1, context),
            ]
        )

    def of(self, answer: AnswerRecord, k: int, found: Passes) -> Array:
        """[3], in the order of :data:`COSTS`."""
        prompt = answer.prompt_tokens
        total = self._pass(k, prompt, prompt).copy()
        for place in np.flatnonzero(found.began)[1:]:
            total += found.began[place] * self._pass(k, prompt + int(place), 1)
        for place in np.flatnonzero(found.after_all):
            total += found.after_all[place] * self._unread(prompt + int(place))
        return total

    def _unread(self, context: int) -> Array:
        """What it costs that the small model has not read its last draft when all were accepted.

        It reads two tokens in its next pass.
        """
        small = self._small
        flops = small.flops(2, context - 2) - small.flops(1, context - 1)
        read = small.bytes_read(context - 2, 1, 2) - small.bytes_read(context - 1, 1, 1)
        return np.array([0.0, flops, read])

    def alone(self, answer: AnswerRecord) -> Array:
        """[3] of the large model alone, which reads the prompt and then token by token."""
        large, prompt, n = self._large, answer.prompt_tokens, len(answer)
        return np.array(
            [
                2.0 * n * large.active,
                large.flops(prompt, 0) + large.flops(n - 1, prompt, n - 1),
                large.bytes_read(0, 1, prompt) + large.bytes_of_passes(n - 1, prompt),
            ]
        )


@dataclass(frozen=True)
class Speculation:
    """Speculation with k drafts on several texts, sums over each, [A].

    Attributes:
        k: drafts of a pass.
        tokens, passes: of each text.
        examined, accepted: [A, k].
        costs, alone: [A, 3], of speculation and of the large model alone; None without sizes.
    """

    k: int
    tokens: Array
    passes: Array
    examined: Array
    accepted: Array
    costs: Array | None
    alone: Array | None


def speculate(
    header: RecordHeader, answers: Sequence[AnswerRecord], lengths: Sequence[int] = LENGTHS
) -> list[Speculation]:
    """Lossless speculation with each of ``lengths`` drafts on the large model's own texts.

    Args:
        header: of their file.
        answers: that the large model wrote alone.
        lengths: numbers of drafts a pass.

    Raises:
        SteerError: as :func:`acceptance`.
    """
    coins = [acceptance(header, answer) for answer in answers]
    most = header.options.get("max_new_tokens")
    limit = most if isinstance(most, int) else None
    costs = SpeculationCosts(header.shapes) if len(header.shapes) == 2 else None
    tokens = np.array([float(len(answer)) for answer in answers])
    alone = np.array([costs.alone(a) for a in answers]) if costs else None
    made = []
    for k in lengths:
        each = [passes_of(coin, k, limit) for coin in coins]
        spent = [costs.of(a, k, f) for a, f in zip(answers, each, strict=True)] if costs else None
        made.append(
            Speculation(
                k,
                tokens,
                np.array([found.passes for found in each]),
                np.array([found.examined for found in each]),
                np.array([found.accepted for found in each]),
                np.array(spent) if spent else None,
                alone,
            )
        )
    return made
