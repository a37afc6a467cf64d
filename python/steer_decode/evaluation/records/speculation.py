"""Lossless speculation on the large model's texts, without a run.

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

What is exact and what is not. Tokens a pass and acceptance by position are exact, also with
``k=auto``: for greedy texts those of a run, else expectations over its draws. So are costs, one
answer at a time, but for drafts that the small model would have ended itself behind a token that
falls: what it would have drafted there is not recorded, so they count whole, and a run may cost
less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...core.drafting import FIRST, LONGEST, Drafting, DraftLength
from ...core.shape import ModelShape
from ...core.transcript import Writer
from ...errors import SteerError
from .record import AnswerRecord, Array, RecordHeader
from .views import changes

LENGTHS: tuple[int | str, ...] = (*range(1, 17), "auto")
COSTS = ("flops_paper", "flops_processed", "bytes_read")
_RARE = 1e-12  # a state that is less likely is left out


class Begun(NamedTuple):
    """A pass that may begin in a text.

    Attributes:
        start: the place of its first token.
        drafts: how many it reads.
        after_all: the pass before it kept all of its drafts, so that the small model has not read
            the last one.
        chance: how likely it is.
    """

    start: int
    drafts: int
    after_all: bool
    chance: float


@dataclass(frozen=True)
class Expected:
    """What speculation does on one text, expected.

    Attributes:
        begun: every pass that may begin.
        examined, accepted: drafts at each position of a pass that were looked at, and kept.
    """

    begun: Sequence[Begun]
    examined: Array
    accepted: Array

    @property
    def passes(self) -> float:
        """Passes of the large model."""
        return sum(one.chance for one in self.begun)

    @property
    def drafted(self) -> float:
        """Tokens that the small model drafts."""
        return sum(one.chance * one.drafts for one in self.begun)


def acceptance(header: RecordHeader, answer: AnswerRecord) -> Array:
    """The coin w of each place of a text, [T].

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


def passes_of(coins: Array, k: int | str, limit: int | None = None, ends: bool = False) -> Expected:
    """Run the passes over a text, in expectation.

    Args:
        coins: of :func:`acceptance`, [T].
        k: drafts of a pass, or "auto", as the router ``speculative`` has it.
        limit: most tokens of an answer: a pass drafts one less than there is room for.
        ends: whether the text's last token ends it; no draft goes on behind it.
    """
    n, coin = len(coins), coins.tolist()
    auto = k == "auto"
    first, longest = (FIRST, LONGEST) if auto else (int(k), int(k))
    states: list[dict[tuple[int, bool], float]] = [{} for _ in range(n + longest + 2)]
    states[0][first, False] = 1.0
    begun: list[Begun] = []
    examined, accepted = [0.0] * longest, [0.0] * longest

    def begins(place: int, length: int, after_all: bool, chance: float) -> None:
        if chance > _RARE and place < n:
            key = length, after_all
            states[place][key] = states[place].get(key, 0.0) + chance

    for start in range(n):
        for (length, after_all), chance in states[start].items():
            drafts = length if limit is None else max(0, min(length, limit - start - 1))
            here = chance
            for i, heads in enumerate(coin[start : start + drafts]):
                examined[i] += here
                fell = _next_length(length, drafts, i) if auto else length
                begins(start + i + 1, fell, False, here * (1 - heads))
                here *= heads
                accepted[i] += here
                if not here:
                    break
            else:
                stayed = _next_length(length, drafts, drafts) if auto and drafts else length
                # The large model's own token behind them, for nothing.
                begins(start + drafts + 1, stayed, drafts > 0, here)
            short = n - start  # of a draft that ends the text, if it is kept
            if ends and here and short < drafts:
                begun.append(Begun(start, short, after_all, here))
                chance -= here
            if chance > 0:
                begun.append(Begun(start, drafts, after_all, chance))
    size = longest if not auto else max((i + 1 for i, x in enumerate(examined) if x), default=1)
    return Expected(begun, np.array(examined[:size]), np.array(accepted[:size]))


@lru_cache(None)
def _next_length(length: int, drafted: int, stayed: int) -> int:
    """The length of the next draft, by the rule of ``k=auto``."""
    rule = DraftLength(Drafting("auto"))
    rule.tokens = length
    rule.told(drafted, stayed)
    return rule.tokens


class SpeculationCosts:
    """Costs of an answer, by speculation and without.

    Args:
        shapes: of both models.
    """

    def __init__(self, shapes: Mapping[Writer, ModelShape]) -> None:
        small, large = shapes["small"], shapes["large"]
        self._small, self._large = small, large
        self._pass = lru_cache(None)(self._pass_at)

    def _pass_at(self, drafts: int, context: int, pending: int, unread: int) -> Array:
        """[2], FLOPs and bytes of a pass behind ``context`` tokens.

        The large model has yet to read the last ``pending`` of them, the small one as many and
        ``unread``.
        """
        small, large = self._small, self._large
        past, back = context - pending, pending + unread
        flops = large.flops(pending + drafts, past, drafts + 1)
        read = large.bytes_read(past, 1, pending + drafts)
        if drafts:
            flops += small.flops(back, context - back) + small.flops(
                drafts - 1, context, drafts - 1
            )
            read += small.bytes_read(context - back, 1, back)
            read += small.bytes_of_passes(drafts - 1, context)
        return np.array([flops, read])

    def of(self, answer: AnswerRecord, found: Expected) -> Array:
        """[3], in the order of :data:`COSTS`."""
        prompt, total = answer.prompt_tokens, np.zeros(2)
        for start, drafts, after_all, chance in found.begun:
            pending = prompt if start == 0 else 1
            total += chance * self._pass(drafts, prompt + start, pending, int(after_all))
        own = len(answer) - float(found.accepted.sum())
        paper = 2.0 * (found.drafted * self._small.active + own * self._large.active)
        return np.array([paper, *total])

    def alone(self, answer: AnswerRecord) -> Array:
        """[3] of the large model alone.

        It reads the prompt, and then token by token.
        """
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
    """Speculation on several texts, sums over each, [A].

    Attributes:
        k: drafts of a pass.
        tokens, passes: of each text.
        examined, accepted: [positions], over all texts.
        costs, alone: [A, 3], of speculation and of the large model alone; None without sizes.
    """

    k: int | str
    tokens: Array
    passes: Array
    examined: Array
    accepted: Array
    costs: Array | None
    alone: Array | None


def speculate(
    header: RecordHeader, answers: Sequence[AnswerRecord], lengths: Sequence[int | str] = LENGTHS
) -> list[Speculation]:
    """Lossless speculation with each of ``lengths`` drafts.

    Args:
        header: of their file.
        answers: that the large model wrote alone.
        lengths: numbers of drafts a pass, "auto" among them.

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
        each = [
            passes_of(coin, k, limit, answer.stop_reason == "eos")
            for coin, answer in zip(coins, answers, strict=True)
        ]
        spent = [costs.of(a, f) for a, f in zip(answers, each, strict=True)] if costs else None
        made.append(
            Speculation(
                k,
                tokens,
                np.array([found.passes for found in each]),
                _summed([found.examined for found in each]),
                _summed([found.accepted for found in each]),
                np.array(spent) if spent else None,
                alone,
            )
        )
    return made


def _summed(rows: Sequence[Array]) -> Array:
    """The sum of rows of different length."""
    total = np.zeros(max(map(len, rows), default=1))
    for row in rows:
        total[: len(row)] += row
    return total
