"""What a recorded answer asks of the two models.

The engines' order is that of the loop: a look before the step, its tokens, the large model's view
of a draft. What a trace does not tell is refused, not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from ..core.trace import Step, Trace
from ..core.transcript import WRITERS, Writer, other
from ..errors import SteerError
from ..evaluation.rows import ResultRow, StepRecord

Kind = Literal["write", "look", "read"]
_WAY = "simulate answers of a router without it"


class Act(NamedTuple):
    """One request of an answer to one model.

    Fields:
        model: that is asked.
        kind: "write" appends tokens, "look" gives the next one's statistics, "read" grades the
            last ones.
        context: tokens of the transcript, all of which the model has to have read.
        writes: tokens that it appends.
        kept: how many of them stay in the answer.
        step: running number of the step that it belongs to.
        cut: tokens of the transcript that are still what they were; what either model has read
            beyond them is void. None where nothing was taken back.
    """

    model: Writer
    kind: Kind
    context: int
    writes: int
    kept: int
    step: int
    cut: int | None = None


@dataclass(frozen=True)
class Script:
    """All requests of one answer, in order.

    Attributes:
        name: of the answer, for messages.
        prompt: its tokens.
        acts: the requests.
        tokens: of the answer, kept ones.
        hand_overs: as the trace counts them.
        steps: of either model, discarded ones included.
        written: tokens of either model, likewise.
        foreign: tokens that either model read before its steps, which it had not written, as the
            trace has them.
    """

    name: str
    prompt: int
    acts: tuple[Act, ...]
    tokens: int
    hand_overs: int
    steps: dict[Writer, int]
    written: dict[Writer, int]
    foreign: dict[Writer, int]

    @property
    def longest(self) -> int:
        """Most tokens of its transcript at any time."""
        return max(act.context + act.writes for act in self.acts)

    @property
    def looks(self) -> bool:
        """Whether the small model looks before a step."""
        return any(act.kind == "look" for act in self.acts)

    @property
    def grades(self) -> bool:
        """Whether the large model reads drafts."""
        return any(act.kind == "read" for act in self.acts)


@dataclass(frozen=True)
class _Part:
    """A step as far as a script needs it; ``runs`` are its new tokens by who wrote them."""

    index: int
    writer: Writer
    runs: Sequence[tuple[Writer, int]]
    inherited: int
    discarded: bool
    looked: bool
    graded: int
    prefilled: int


def of_trace(trace: Trace, name: str, stretch: float = 1.0) -> Script:
    """The script of a saved answer.

    Args:
        trace: with a prompt and at least one step.
        name: for messages.
        stretch: times as many tokens in the prompt and in each step.

    Raises:
        SteerError: it has no prompt or no step, or something that a script cannot hold.
    """
    if not trace.prompt_ids:
        raise SteerError(f"{name} has no prompt: {_WAY}")
    for what, found in (
        ("verified drafts", any(step.drafts for step in trace.steps)),
        ("questions to the large model", any(step.answers for step in trace.steps)),
    ):
        if found:
            raise SteerError(f"{name} has {what}, of which a trace does not tell all: {_WAY}")
    return _script(name, len(trace.prompt_ids), [_of_step(s) for s in trace.steps], stretch)


def of_row(row: ResultRow, name: str, stretch: float = 1.0) -> Script:
    """The script of an answer of an evaluation.

    Its prompt is what was read before the first step.

    Raises:
        SteerError: as :func:`of_trace`; or the large model ran more often than its steps explain,
            as that of a router that grades drafts does.
    """
    if any(step.drafts for step in row.trace):
        raise SteerError(f"{name} has verified drafts, of which a trace does not tell all: {_WAY}")
    if any(step.inherited for step in row.trace):
        raise SteerError(
            f"{name} has mended steps, of which results do not tell who wrote which token: "
            "simulate traces of `steer generate --trace`"
        )
    parts = [_of_record(s, i) for s, i in zip(row.trace, _indices(row.trace), strict=True)]
    prompt = parts[0].prefilled if parts else 0
    if parts and not prompt:
        raise SteerError(f"{name} has no prompt: {_WAY}")
    script = _script(name, prompt, parts, 1.0)
    passes = sum(max(1, act.writes) for act in script.acts if act.model == "large")
    if row.large_passes is not None and row.large_passes > passes:
        raise SteerError(
            f"{name} had the large model run {row.large_passes} times where its steps explain "
            f"{passes}: it read drafts, of which results do not tell; simulate traces of "
            "`steer generate --trace`"
        )
    return script if stretch == 1 else _script(name, prompt, parts, stretch)


def alone(script: Script, writer: Writer) -> Script:
    """The same answer, written by one model alone."""
    act = Act(writer, "write", script.prompt, script.tokens, script.tokens, 0)
    rest = other(writer)
    return Script(
        script.name,
        script.prompt,
        (act,),
        script.tokens,
        0,
        {writer: 1, rest: 0},
        {writer: script.tokens, rest: 0},
        {writer: script.prompt, rest: 0},
    )


def _of_step(step: Step) -> _Part:
    new = step.writers[step.inherited :]
    return _Part(
        step.index,
        step.writer,
        [(writer, len(list(run))) for writer, run in groupby(new)],
        step.inherited,
        step.discarded,
        step.before is not None,
        len(step.graded),
        step.prefilled,
    )


def _of_record(step: StepRecord, index: int) -> _Part:
    # Without mended steps, the other model's tokens are those that lead.
    runs = [(other(step.writer), step.others), (step.writer, step.tokens - step.others)]
    return _Part(
        index,
        step.writer,
        [run for run in runs if run[1]],
        0,
        step.discarded,
        step.before is not None,
        0,
        step.prefilled,
    )


def _indices(steps: Sequence[StepRecord]) -> list[int]:
    """The index of each step, which a row does not hold.

    A step that is taken back is written again at once. Where two in a row are discarded the answer
    has begun anew, for what was written again stays.
    """
    drafts = next((i for i, step in enumerate(steps) if not step.discarded), len(steps))
    begins = drafts if drafts > 1 else -1
    found, index = [], 0
    for i, step in enumerate(steps):
        if i == begins:
            index = 0
        found.append(index)
        index += not step.discarded or i < begins
    return found


def _script(name: str, prompt: int, parts: Sequence[_Part], stretch: float) -> Script:
    if not parts:
        raise SteerError(f"{name} has no step: {_WAY}")
    prompt = _times(prompt, stretch)
    length, tokens, cut, pen, passed = prompt, 0, None, "", 0
    starts: dict[int, int] = {}
    acts: list[Act] = []
    counts: dict[str, dict[Writer, int]] = {
        key: dict.fromkeys(WRITERS, 0) for key in ("steps", "written", "foreign")
    }
    for number, part in enumerate(parts):
        if part.index in starts:
            length = starts[part.index] + _times(part.inherited, stretch)
            cut = length
            starts = {i: start for i, start in starts.items() if i <= part.index}
        starts.setdefault(part.index, length)
        if part.looked and part.writer == "large":
            acts.append(Act("small", "look", length, 0, 0, number, cut))
            cut = None
        for writer, run in part.runs:
            n = _times(run, stretch)
            kept = 0 if part.discarded else n
            acts.append(Act(writer, "write", length, n, kept, number, cut))
            length, tokens, cut = length + n, tokens + kept, None
            counts["written"][writer] += n
            passed, pen = passed + (pen not in ("", writer)), writer
        if part.graded:
            acts.append(Act("large", "read", length, 0, 0, number, cut))
            cut = None
        if not part.discarded:  # what it took over from a draft stays too
            tokens += _times(part.inherited, stretch)
        counts["steps"][part.writer] += 1
        counts["foreign"][part.writer] += part.prefilled
    return Script(name, prompt, tuple(acts), tokens, passed, **counts)


def _times(tokens: int, stretch: float) -> int:
    return max(1, round(tokens * stretch)) if tokens else 0
