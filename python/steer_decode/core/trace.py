"""What happened, step by step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import compress
from math import isnan

from .log_probs import LogProbs
from .transcript import Writer, other


@dataclass
class Step:
    """One step of an answer, kept or discarded.

    Attributes:
        index: position among the kept steps, from 0; a discarded step shares its successor's.
        writer: the model that wrote it, tokens in ``others`` excepted.
        token_ids, text: what was written, delimiter included.
        values: the signal of each token, in the signal's own unit.
        before: the signal of the look before the step; None where the policy does not look.
        posterior: probability that the step is a confident one, where the policy fits a mixture.
        prefilled: tokens that the writer had to read before it could begin.
        probed: tokens that the small model read for the look before a step of the large one.
        discarded: the step does not stay. Its successor is written anew, or mends it.
        closed: the delimiter or the end of the answer ended it; it was not cut off.
        milliseconds: from the look before the step to its last token.
        ended: the model ended the answer with it.
        counted: which of ``values`` enter the score; empty for all of them.
        graded: of a draft that the large model has read, the log-probability of each token under
            it, in nats; of a mended draft, of the tokens behind the mended one.
        likeliest: of such a draft, whether each token is the large model's likeliest.
        answers: of a draft that the large model was asked about, the log-probability of each
            answer, in nats.
        others: of a mended step, positions of the tokens that the other model wrote.
        inherited: of a mended step, how many tokens it took over from the discarded draft; both
            steps count them.
        refused: of a draft that was mended, position of the token that did not stay; else None.
        ends: for each token, where its text ends in ``text``.
        drafts: for each draft that the large model verified in it, how many tokens it had and how
            many stayed. The tokens that stayed count as the large model's.
        log_probs: of each token, where they were asked for; not saved.
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
    others: list[int] = field(default_factory=list)
    inherited: int = 0
    refused: int | None = None
    ends: list[int] = field(default_factory=list)
    drafts: list[tuple[int, int]] = field(default_factory=list)
    log_probs: list[LogProbs] = field(default_factory=list)

    @property
    def writers(self) -> list[Writer]:
        """Who wrote each token."""
        mixed = [self.writer] * len(self.token_ids)
        for position in self.others:
            mixed[position] = other(self.writer)
        return mixed

    @property
    def unread(self) -> int:
        """Tokens that its writer wrote since another model did."""
        return len(self.token_ids) - (self.others[-1] + 1 if self.others else 0)

    @property
    def patches(self) -> list[tuple[int, int]]:
        """Where in ``text`` the other model's tokens begin and end."""
        return [(self.ends[i - 1] if i else 0, self.ends[i]) for i in self.others]

    def by(self, writer: Writer) -> int:
        """How many of its tokens ``writer`` wrote."""
        own = len(self.token_ids) - len(self.others)
        return own if writer == self.writer else len(self.others)

    def until(self, at: int, writer: Writer) -> Step:
        """The step that takes its place from token ``at`` on.

        That token and the rest are void. ``writer`` is to write what follows, tokens that mend it
        left aside.
        """
        return Step(
            self.index,
            writer,
            self.token_ids[:at],
            values=self.values[:at],
            log_probs=self.log_probs[:at],
            others=[i for i, author in enumerate(self.writers[:at]) if author != writer],
            inherited=at,
        )

    @property
    def score(self) -> float:
        """Mean signal over the tokens that count.

        NaN where there is none.
        """
        values = list(compress(self.values, self.counted)) if self.counted else self.values
        return sum(values) / len(values) if values else float("nan")

    def to_dict(self) -> dict[str, object]:
        record = asdict(self)
        del record["log_probs"]
        # Broken off within a draft that it took over: what has not been told has no writer yet.
        record["others"] = [i for i in self.others if i < len(self.ends)]
        score = self.score
        record["score"] = None if isnan(score) else score
        return record


@dataclass
class Trace:
    """All steps of one answer, in the order of writing.

    With them how the answer was made. ``prompt`` is the text of ``prompt_ids``, special tokens
    included; it is not saved.
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
        """How often the writing passed to the other model.

        A step taken back counts as well.
        """
        passed, last = 0, None
        for step in self.steps:
            runs = [step.writer] if not step.others else step.writers[step.inherited :]
            for writer in runs:
                passed += last not in (None, writer)
                last = writer
        return passed

    def to_dict(self) -> dict[str, object]:
        return {
            "policy": self.policy,
            "signal": self.signal,
            "stop_reason": self.stop_reason,
            "hand_overs": self.hand_overs,
            "prompt_ids": self.prompt_ids,
            "steps": [step.to_dict() for step in self.steps],
        }
