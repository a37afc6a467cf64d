"""How the large model's tokens are drafted, and which stay.

Speculative decoding (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318): the small
model proposes a few tokens, the large one reads all of them in one pass, and those stay that it
might have written itself. With p and q the two models' distributions at a place, after temperature
and cuts, and d the token that was drawn from q:

    exact   d stays with probability min(1, p(d) / q(d)); at the first place where it does not, the
            token is drawn from max(0, p - q), normalised. So tokens have the distribution p.

The other rules are lossy: what stays is not distributed as p. Where one refuses a draft, the token
is drawn from p. Rules look at log p alone:

    relaxed d is among the ``top`` likeliest and p(d) >= max p - ``delta`` (relaxed acceptance of
            TensorRT-LLM). Faithful.
    typical p(d) > min(``eps``, ``delta`` exp(-H(p))) (Medusa, arXiv 2401.10774). Faithful, but that
            H is taken after the cuts, and that Medusa always takes a draft's first token greedily.
    cascade p(d) >= (1 - ``alpha``) max p (token-specific rule V3 of speculative cascades, arXiv
            2405.19261): together with the draw from p where d falls it is that paper's target
            distribution. Faithful.
    bild    -log p(d) <= ``rollback`` or d is the likeliest (Big Little Decoder, arXiv 2302.07863).
            Faithful; its other half, which hands over where the small model is unsure, is
            ``least``.
    fly     a mismatch with the likeliest token stays if the entropy of the three likeliest,
            normalised, is at least ``theta`` of its maximum and none of the next ``window`` tokens
            mismatches as well (FLy, arXiv 2511.22972). Where the window reaches beyond the draft,
            the mismatch falls: ours, since what lies beyond is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor

from ..errors import SteerError
from ..util.checks import number, one_of, whole

Rule = Literal["exact", "relaxed", "typical", "cascade", "bild", "fly"]
RULES: tuple[Rule, ...] = get_args(Rule)
SETTINGS: Mapping[Rule, Mapping[str, float]] = {
    "exact": {},
    "relaxed": {"top": 10, "delta": 0.6},
    "typical": {"eps": 0.09, "delta": 0.3},
    "cascade": {"alpha": 0.3},
    "bild": {"rollback": 3.0},
    "fly": {"theta": 0.3, "window": 6},
}
LONGEST = 32  # tokens of a draft of "auto"
FIRST = 5  # likewise, of its first


@dataclass(frozen=True)
class Drafting:
    """Drafts for tokens that the large model is to write.

    Attributes:
        k: tokens of a draft at most; "auto" begins with 5, adds 2 where all stayed and takes 1 off
            where one fell, as ``num_assistant_tokens_schedule`` of transformers.
        rule: which of them stay.
        settings: of the rule, see above; those that are left out have their defaults.
        least: a draft ends before a token of which the small model is less sure.
        sure: a draft that ran to its end, of whose tokens the small model is all so sure, stays
            unread; at 1 none does. The large model reads it when it next writes.
        signal: how sure the small model is, for the two: "max-prob" or "margin".
        source: "small", or "prompt": what followed the last ``match`` tokens where they stood
            before (prompt lookup decoding), for which no model runs.
        match: tokens that have to be alike, with "prompt".
        beyond: drafts go on beyond the end of a step, as the large model writes the next one, too.

    Raises:
        SteerError: a value out of its range, or a setting that the rule has not.
    """

    k: int | Literal["auto"] = 4
    rule: Rule = "exact"
    settings: Mapping[str, float] = field(default_factory=dict)
    least: float = 0.0
    sure: float = 1.0
    signal: Literal["max-prob", "margin"] = "max-prob"
    source: Literal["small", "prompt"] = "small"
    match: int = 2
    beyond: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.k, str) and self.k == "auto"):
            object.__setattr__(self, "k", whole("k", self.k))
            if self.k < 1:
                raise SteerError(f"k must be 'auto' or at least 1 token of a draft, got {self.k}")
        one_of("accept", self.rule, RULES)
        one_of("source", self.source, ("small", "prompt"))
        if whole("match", self.match) < 1:
            raise SteerError(f"match must be at least 1 token, got {self.match}")
        one_of("signal", self.signal, ("max-prob", "margin"))
        if not 0 <= number("least", self.least) < 1:
            raise SteerError(f"least must lie in [0, 1), got {self.least}")
        if not self.least <= number("sure", self.sure) <= 1:
            raise SteerError(f"sure must lie in [least, 1] = [{self.least:g}, 1], got {self.sure}")
        known = SETTINGS[self.rule]
        for name in self.settings:
            if name not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise SteerError(f"accept={self.rule} has no setting {name!r}: {takes}")
        values = {**known, **{k: _positive(k, v) for k, v in self.settings.items()}}
        object.__setattr__(self, "settings", values)

    def __hash__(self) -> int:
        return hash((self.k, self.rule, tuple(self.settings.items()), self.least, self.sure))

    @property
    def lossless(self) -> bool:
        """Whether drafts that are read have the large model's distribution."""
        return self.rule == "exact"

    @property
    def gated(self) -> bool:
        """Whether it matters how sure the small model is."""
        return self.least > 0 or self.sure < 1

    @property
    def keeps_logits(self) -> bool:
        """Whether it is asked what a draft was drawn from."""
        return self.lossless and self.source == "small"

    def stays(self, log_p: Tensor, drafts: Tensor) -> Tensor:
        """Which drafts a lossy rule lets stay.

        Args:
            log_p: [n, V] log-probabilities of the large model at n places, -inf where cut.
            drafts: [n] int64.

        Returns:
            [n] bool. Drafts behind the first that falls are void, whatever is said of them.
        """
        s = self.settings
        own = log_p.gather(1, drafts[:, None])[:, 0]
        best, likeliest = log_p.max(1)
        if self.rule == "relaxed":
            ranks = (log_p > own[:, None]).sum(1)
            return (ranks < s["top"]) & (own.exp() >= best.exp() - s["delta"])
        if self.rule == "typical":
            entropy = -(log_p.exp() * log_p.clamp_min(-1e4)).sum(1)
            return own.exp() > (s["delta"] * (-entropy).exp()).clamp_max(s["eps"])
        if self.rule == "cascade":
            return own >= best + math.log1p(-s["alpha"]) if s["alpha"] < 1 else own > -math.inf
        if self.rule == "bild":
            return (-own <= s["rollback"]) | (likeliest == drafts)
        assert self.rule == "fly"
        top = log_p.topk(min(3, log_p.shape[1]), dim=1).values.log_softmax(1)
        entropy = -(top.exp() * top.clamp_min(-1e4)).sum(1)
        differs = (likeliest != drafts).tolist()
        open_ = (entropy >= s["theta"] * math.log(max(2, top.shape[1]))).tolist()
        window, n = int(s["window"]), len(differs)
        fine = [
            not differs[i]
            or (open_[i] and i + window < n and not any(differs[i + 1 : i + 1 + window]))
            for i in range(n)
        ]
        return drafts.new_tensor(fine).bool()

    def __str__(self) -> str:
        """Its settings as a router's text has them, without ``k``."""
        parts = [] if self.lossless else [f"accept={self.rule}"]
        parts += [f"{k}={v:g}" for k, v in self.settings.items() if v != SETTINGS[self.rule][k]]
        parts += [f"least={self.least:g}"] if self.least else []
        parts += [f"sure={self.sure:g}"] if self.sure < 1 else []
        parts += [f"signal={self.signal}"] if self.signal != "max-prob" else []
        return "".join(f":{part}" for part in parts)


class DraftLength:
    """How long the next draft of an answer may be."""

    def __init__(self, drafting: Drafting) -> None:
        self._auto = drafting.k == "auto"
        self.tokens = FIRST if drafting.k == "auto" else drafting.k

    def told(self, drafted: int, stayed: int) -> None:
        """Learn from a draft that was verified.

        Args:
            drafted: its tokens.
            stayed: how many of them the large model let stay.
        """
        if self._auto:
            full = stayed == drafted
            step = 2 if full and drafted >= self.tokens else 0 if full else -1
            self.tokens = max(1, min(LONGEST, self.tokens + step))


def lookup(ids: list[int], match: int, most: int) -> list[int]:
    """What followed the last ``match`` ids before.

    That is, at the latest place where they stood before; at most ``most`` ids, and none where they
    did not. (Prompt lookup decoding, A. Saxena 2023.)
    """
    if len(ids) <= match:
        return []
    tail = ids[-match:]
    for start in range(len(ids) - match - 1, -1, -1):
        if ids[start : start + match] == tail:
            return ids[start + match : start + match + most]
    return []


def _positive(name: str, value: float) -> float:
    if not 0 <= number(name, value) < math.inf:
        raise SteerError(f"{name} must be a number from 0 on, got {value}")
    return float(value)
