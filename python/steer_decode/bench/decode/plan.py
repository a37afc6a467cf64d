"""What `steer bench decode` measures, and what is asked.

And on which models. Every figure is a ratio of two things measured in the same run, so that it
means the same on a slow machine as on a fast one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...errors import SteerError
from ..kernels.plan import known

if TYPE_CHECKING:
    from ...models.pair import Pair

MODELS = ("demo", "smollm2-135m", "qwen2.5-0.5b")
TOKENS = dict(zip(MODELS, (128, 16, 8), strict=True))  # of one turn: the slower, the fewer
GIVEN = "given"  # the model's name in rows of a pair that the caller gives
POSITIONS = 32_768  # that every model is given, whatever it was trained for
LONG_CONTEXT = 4096  # from here on the cache in place has to show


@dataclass(frozen=True)
class Measure:
    """A ratio and the limit that is set to it.

    Attributes:
        about: the two sides of the ratio, in words.
        sense: "at most", "at least" or "within" (of 1) the limit; "" where none is set.
        limit: at contexts below :data:`LONG_CONTEXT`.
        long_limit: from there on, where it is another.
    """

    about: str
    sense: str = ""
    limit: float | None = None
    long_limit: float | None = None

    def limit_at(self, context: int) -> float | None:
        return self.limit if self.long_limit is None or context < LONG_CONTEXT else self.long_limit

    def met(self, value: float, context: int) -> bool | None:
        """Whether ``value`` keeps the limit; None where there is none."""
        limit = self.limit_at(context)
        if limit is None:
            return None
        if self.sense == "within":
            return abs(value - 1) <= limit
        return value <= limit if self.sense == "at most" else value >= limit

    def condition(self, context: int) -> str:
        limit = self.limit_at(context)
        if limit is None:
            return ""
        return (
            f"{self.sense} {100 * limit:.0f} %"
            if self.sense == "within"
            else (f"{self.sense} {limit:g}")
        )


MEASURES = {
    "loop": Measure("our loop / bare passes", "at most", 1.05),
    "generate": Measure("generate / ours, a token", "at least", 1.0, 1.3),
    "generate-whole": Measure("generate / ours, whole", "at least", 1.0),
    "hand-over": Measure("hand-over / a bare pass", "at most", 1.15),
    "encode-again": Measure("encoding all / hand-over", "at least", 10.0),
    "predicted": Measure("routed / its passes, bare", "within", 0.10),
    "assisted": Measure("assisted / routed decoding"),
    "speculative": Measure("k=auto / assisted decoding", "at most", 1.0),
    "speculative-k4": Measure("k=4 / assisted decoding", "at most", 1.0),
    "cohort": Measure("one by one / in a cohort", "at least", 4.0),
    "overlap": Measure("in turn, all cores / overlapped"),
    "overlap-cohort": Measure("the same, in a cohort"),
    "memory": Measure("peak / weights and caches", "at most", 1.05),
}

# What is measured together, as its sides take turns in one process.
GROUPS = {
    "decode": ("loop", "generate"),
    "hand-over": ("hand-over", "encode-again"),
    "answers": ("predicted", "assisted", "speculative", "speculative-k4", "cohort"),
    "overlap": ("overlap", "overlap-cohort"),
    "memory": ("memory",),
    "whole": ("generate-whole",),
}


@dataclass(frozen=True)
class DecodeRow:
    """One ratio.

    Attributes:
        measure, model: names in :data:`MEASURES` and :data:`MODELS`.
        threads: of torch.
        context: tokens of the prompt; for whole answers, of the longest prompt.
        value: the ratio.
        limit, ok: what is asked of it, and whether it is met; None where nothing is.
        spread: median over least time of our side, over its turns. Far from 1, the machine was
            busy with something else.
    """

    measure: str
    model: str
    threads: int
    context: int
    value: float
    limit: float | None
    ok: bool | None
    spread: float

    @classmethod
    def of(
        cls, measure: str, job: Job, value: float, spread: float = 1.0, context: int | None = None
    ) -> DecodeRow:
        where = job.context if context is None else context
        rule = MEASURES[measure]
        met = rule.met(value, where)
        limit = rule.limit_at(where)
        return cls(measure, job.model, job.threads, where, value, limit, met, spread)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """Measures that are taken together.

    For one model, number of threads and context.
    """

    group: str
    model: str
    threads: int
    context: int

    def __str__(self) -> str:
        return f"{self.group}-{self.model}-{self.context}-{self.threads}T"


@dataclass(frozen=True)
class DecodePlan:
    """A grid of jobs; the defaults are the full run.

    Attributes:
        contexts: prompt lengths of `loop` and `generate`; the first and the longest serve
            `generate-whole`.
        hand_over_context, hand_over_tokens: what was read before, and what the other model wrote.
        memory_context: prompt length of `memory`.
        problems: of the demo's tasks, for the measures of whole answers.
        tokens: of one turn; by default :data:`TOKENS`, and 200 at most of a whole answer.
        turns: of each contender; as many more as fit into ``seconds``.
        given: a pair that takes the place of ``models``, for whole answers only.
    """

    only: Sequence[str] = tuple(MEASURES)
    models: Sequence[str] = MODELS
    threads: Sequence[int] = (1, 2)
    contexts: Sequence[int] = (128, 1024, 4096)
    hand_over_context: int = 2048
    hand_over_tokens: int = 64
    memory_context: int = 1024
    problems: int = 16
    tokens: int | None = None
    turns: int = 5
    seconds: float = 10.0
    given: Pair | None = None

    def check(self) -> None:
        """Check that the plan can be run.

        Raises:
            SteerError: a name is unknown, a list empty, or a number out of range.
        """
        known("measure", self.only, tuple(MEASURES))
        known("model", self.models, MODELS)
        for name, numbers in (("threads", self.threads), ("contexts", self.contexts)):
            if not numbers or min(numbers) < 1:
                got = ",".join(map(str, numbers)) or "none"
                raise SteerError(f"--{name} must be numbers from 1 on, got {got}")
        tokens = max(TOKENS.values()) if self.tokens is None else self.tokens
        for name, number, least in (("problems", self.problems, 1), ("tokens", tokens, 2)):
            if number < least:
                raise SteerError(f"--{name} must be at least {least}, got {number}")
        if max(self.contexts) + tokens > POSITIONS:
            raise SteerError(
                f"--contexts must be at most {POSITIONS - tokens}, so that {tokens} tokens may "
                f"follow, got {max(self.contexts)}"
            )
        if not 0 <= self.seconds <= 3600:
            raise SteerError(f"--seconds must be at least 0 and at most 3600, got {self.seconds:g}")

    def tokens_of(self, job: Job) -> int:
        """Tokens of one turn of ``job``."""
        return TOKENS[job.model] if self.tokens is None else self.tokens

    def jobs(self) -> list[Job]:
        """The grid, a model at a time.

        What takes longest comes last.
        """
        longest = max(self.contexts)
        contexts = {
            "decode": self.contexts,
            "hand-over": (self.hand_over_context,),
            "answers": (0,),  # as the problems have it
            "overlap": (0,),
            "memory": (self.memory_context,),
            "whole": tuple(dict.fromkeys((self.contexts[0], longest))),
        }
        wanted = [group for group in GROUPS if set(GROUPS[group]) & set(self.only)]
        found = []
        for late in (False, True):
            for model in (GIVEN,) if self.given else self.models:
                for group in wanted:
                    if (group == "whole") != late or not _measured(group, model):
                        continue
                    # Memory does not depend on the threads.
                    threads = self.threads[:1] if group == "memory" else self.threads
                    found += [
                        Job(group, model, n, context)
                        for context in contexts[group]
                        for n in threads
                    ]
        return found


def _measured(group: str, model: str) -> bool:
    """Whether ``model`` can do it: answers want a real pair, and the rest texts without an end."""
    return model in ("demo", GIVEN) if group in ("answers", "overlap") else model != GIVEN


QUICK = DecodePlan(
    models=MODELS[:2],
    threads=(1,),
    contexts=(128, 4096),
    only=tuple(name for name in MEASURES if name != "generate-whole"),
    problems=8,
    turns=3,
    seconds=3.0,
)
