"""What happened, step by step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import compress
from math import isnan

from .transcript import Writer


@dataclass
class Step:
    """One step of an answer, kept or discarded.

    Attributes:
        index: position among the kept steps, from 0; a discarded step shares its successor's.
        writer: the model that wrote it.
        token_ids, text: what was written, delimiter included.
        values: the signal of each token, in the signal's own unit.
        score: mean of the values that count.
        before: the signal of the small model's next token, read before the step, where the
            policy looks ahead.
        posterior: probability that the step is a confident one, where the policy fits a mixture.
        prefilled: tokens of the other model (or of the prompt) that the writer read to begin.
        probed: tokens that the small model read only to be asked before a step of the large one.
        discarded: taken back and written again by the other model.
        closed: ended by the delimiter or by the end of the answer, not cut off.
        milliseconds: from the look before the step to its last token.
        ended: the model ended the answer with it.
        counted: which of ``values`` enter the score; empty for all of them.
        graded: log-probability of each token under the large model, in nats, where the policy has
            steps of the small model graded.
        likeliest: likewise, whether the token is the large model's likeliest.
        answers: where the policy asks the large model about steps of the small one, the
            log-probability of each answer that it may give.
    """

    index: int
    writer: Writer
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    values: list[float] = field(default_factory=list)
    before: float | None = None
    posterior: float | None = None
    prefilled: int = 0
    probed: int = 0
    discarded: bool = False
    closed: bool = False
    milliseconds: float = 0.0
    ended: bool = False
    counted: list[bool] = field(default_factory=list)
    graded: list[float] = field(default_factory=list)
    likeliest: list[bool] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Mean signal over the tokens that count; NaN where there is none."""
        values = list(compress(self.values, self.counted)) if self.counted else self.values
        return sum(values) / len(values) if values else float("nan")

    def to_dict(self) -> dict[str, object]:
        record = asdict(self)
        score = self.score
        record["score"] = None if isnan(score) else score
        return record


@dataclass
class Trace:
    """All steps of one answer in the order in which they were written, with how it was made.

    ``prompt`` is the text of ``prompt_ids``, special tokens included; it is not saved.
    """

    policy: str
    signal: str
    prompt_ids: list[int]
    steps: list[Step] = field(default_factory=list)
    stop_reason: str = ""
    prompt: str = field(default="", repr=False)

    @property
    def kept(self) -> list[Step]:
        return [step for step in self.steps if not step.discarded]

    @property
    def hand_overs(self) -> int:
        """Times that the writing passed from one model to the other, a step taken back included."""
        pairs = zip(self.steps, self.steps[1:], strict=False)
        return sum(a.writer != b.writer for a, b in pairs)

    def to_dict(self) -> dict[str, object]:
        return {
            "policy": self.policy,
            "signal": self.signal,
            "stop_reason": self.stop_reason,
            "hand_overs": self.hand_overs,
            "prompt_ids": self.prompt_ids,
            "steps": [step.to_dict() for step in self.steps],
        }
