"""Speculative decoding, and its lossy relatives.

The answer is the large model's, and no step is routed. The small model proposes ``k`` tokens, the
large one reads them in one pass, and what it lets stay stands (arXiv 2211.17192, 2302.01318). With
the exact rule every token has the large model's distribution, greedy or sampled, so accuracy cannot
move. What is saved is passes of the large model: bytes, and the seconds of answers that are written
alone. FLOPs are not, as the large model reads every draft, those that fall included.

The lossy rules save more passes and promise less; ``core/drafting.py`` says what each is, and how
faithful. ``bild`` is Big Little Decoder whole: drafts run on until the small model is unsure.
``prompt-lookup`` is the control without a second model: drafts are what followed the last tokens
where they stood in the text before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from ..core.drafting import LONGEST, Drafting, Rule
from ..core.signals import Signal, get_signal
from ..core.transcript import Writer
from ..util import checks
from .base import Policy, StepStart


class _Drafted(Policy):
    """The large model writes every step, by drafts."""

    drafting: Drafting = Drafting(beyond=True)

    def before_step(self, start: StepStart) -> Writer:
        return "large"

    @property
    def label(self) -> str:
        return str(self)


class Speculative(_Drafted):
    """The large model's answer, drafted by the small one.

    Args:
        k: tokens of a draft; "auto" follows what stayed.
        accept: which drafts stay: "exact" (lossless), "relaxed", "typical", "cascade", "bild" or
            "fly".
        least: a draft ends before a token that the small model gives a smaller probability.
        top, delta: of "relaxed": rank, and distance from the largest probability; ``delta`` also of
            "typical".
        eps: of "typical".
        alpha: of "cascade".
        rollback: of "bild", in nats.
        theta, window: of "fly".
        signal: what steps are scored by.

    Raises:
        SteerError: a value out of its range, or a setting that the rule has not.
    """

    name: ClassVar[str] = "speculative"

    def __init__(
        self,
        k: int | Literal["auto"] = 4,
        accept: Rule = "exact",
        least: float = 0.0,
        top: int | None = None,
        delta: float | None = None,
        eps: float | None = None,
        alpha: float | None = None,
        rollback: float | None = None,
        theta: float | None = None,
        window: int | None = None,
        signal: str | Signal = "max-logit",
    ) -> None:
        given: Mapping[str, float | None] = {
            "top": top,
            "delta": delta,
            "eps": eps,
            "alpha": alpha,
            "rollback": rollback,
            "theta": theta,
            "window": window,
        }
        settings = {name: value for name, value in given.items() if value is not None}
        self.drafting = Drafting(k, accept, settings, least, beyond=True)
        self.signal = get_signal(signal)

    def __str__(self) -> str:
        return f"{self.name}:k={self.drafting.k}{self.drafting}"


class Bild(_Drafted):
    """Big Little Decoder: drafts until the small model is unsure.

    The large model then reads them, takes back from the first that it finds too unlikely on, and
    writes that token. Faithful: both thresholds and what they are compared with. Ours: a draft has
    at most 32 tokens, so that neither model waits for ever.

    Args:
        fallback: a draft ends before a token of smaller probability.
        rollback: cross-entropy of a token under the large model, in nats, above which it falls.

    Raises:
        SteerError: a value out of its range.
    """

    name: ClassVar[str] = "bild"

    def __init__(self, fallback: float = 0.6, rollback: float = 3.0) -> None:
        fallback = checks.fraction("fallback", fallback)
        self.drafting = Drafting(LONGEST, "bild", {"rollback": rollback}, fallback, beyond=True)

    def __str__(self) -> str:
        rollback = self.drafting.settings["rollback"]
        return f"{self.name}:fallback={self.drafting.least:g}:rollback={rollback:g}"


class PromptLookup(_Drafted):
    """The large model's answer, drafted from its own text.

    Lossless, and the small model does nothing.

    Args:
        k: tokens of a draft.
        match: last tokens that have to stand in the text before.

    Raises:
        SteerError: a value out of its range.
    """

    name: ClassVar[str] = "prompt-lookup"

    def __init__(self, k: int | Literal["auto"] = 10, match: int = 2) -> None:
        self.drafting = Drafting(k, source="prompt", match=match, beyond=True)

    def __str__(self) -> str:
        return f"{self.name}:k={self.drafting.k}:match={self.drafting.match}"
