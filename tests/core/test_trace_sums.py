"""What a trace says step by step adds up to the totals of its answer, whatever the policy does."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from steer_decode import Policy, Router, Step, StepStart, Trace
from steer_decode.core.transcript import WRITERS, Writer
from steer_decode.evaluation.rows import step_records
from steer_decode.policies import Mend
from support.tiny import make_pair, prompt_text


class Chaos(Policy):
    """Writes, takes back, restarts, looks and has steps read as a seed says."""

    name = "chaos"

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.looks_ahead, self.grades, self.restarts = (rng.random() < 0.5 for _ in range(3))
        self._rng = random.Random(seed + 1)
        self.verdicts: list[Any] = []

    def before_step(self, start: StepStart) -> Writer:
        return self._rng.choice(WRITERS)

    def wants_grade(self, step: Step) -> bool:
        return self._rng.random() < 0.5

    def judge(self, step: Step, trace: Trace) -> Any:
        again = [s for s in trace.steps if s.discarded and s.index == step.index]
        choices: list[Any] = [*WRITERS]
        if not again:
            choices.append("redo")
        mended = self.verdicts and isinstance(self.verdicts[-1], Mend) and again
        if step.unread and (not again or (mended and not self.verdicts[-1].rest)):
            at = len(step.token_ids) - self._rng.randint(1, step.unread)
            choices.append(Mend(at, rest=self._rng.random() < 0.3))
        if self.restarts and "restart" not in self.verdicts:
            choices.append("restart")
        self.verdicts.append(self._rng.choice(choices))
        return self.verdicts[-1]


class Reader:
    """What a model has read of a text that grows and shrinks, by the rules of the loop."""

    def __init__(self) -> None:
        self.mark = self.processed = self.forwards = 0
        self.knows = False  # the logits behind the last token that it read
        self.held: set[int] = set()  # lengths whose logits a judge has kept

    def catch_up(self, length: int) -> None:
        if self.mark == length and not self.knows:
            self.mark -= 1
        if self.mark < length:
            self._pass(length)

    def grade(self, length: int, likeliest: list[bool]) -> None:
        tokens = len(likeliest)
        self.roll_back(length - tokens)
        if not (self.knows and self.mark == length - tokens):
            self.roll_back(length - tokens - 1)
        self._pass(length)
        self.held = {length - tokens + j for j, agrees in enumerate(likeliest) if not agrees}

    def roll_back(self, length: int) -> None:
        if length < self.mark:
            self.mark, self.knows = length, length in self.held

    def _pass(self, length: int) -> None:
        self.processed += length - self.mark
        self.forwards += 1
        self.mark, self.knows, self.held = length, True, set()


def simulate(trace: Trace, chaos: Chaos) -> dict[Writer, Reader]:
    """What either model reads for this trace; checks what its steps say of hand-overs."""
    readers: dict[Writer, Reader] = {w: Reader() for w in WRITERS}
    owners: list[Writer | None] = [None] * len(trace.prompt_ids)
    verdicts = iter(chaos.verdicts)
    verdict: Any = ""

    def foreign(writer: Writer) -> int:
        return sum(owner != writer for owner in owners[readers[writer].mark :])

    for step in trace.steps:
        start, mends = len(owners) - step.inherited, isinstance(verdict, Mend)
        rest = mends and verdict.rest
        assert owners[start:] == step.writers[: step.inherited]
        prefilled = 0 if mends else foreign(step.writer)
        if chaos.looks_ahead and not mends and verdict != "redo":
            pending = start - readers["small"].mark
            readers["small"].catch_up(start)
            assert step.probed == (pending if step.writer == "large" else 0)
        for i, writer in enumerate(step.writers[step.inherited :]):
            assert (writer == step.writer) != (mends and i == 0 and not rest)
            prefilled += foreign(writer) if mends and i < 2 else 0
            readers[writer].catch_up(len(owners))
            owners.append(writer)
        assert step.prefilled == prefilled
        if step.graded:
            readers["large"].grade(len(owners), step.likeliest)
        verdict = next(verdicts) if step.closed else ""
        ends = {"redo": start, "restart": len(trace.prompt_ids)}
        end = start + verdict.at if isinstance(verdict, Mend) else ends.get(verdict)
        if end is not None:
            del owners[end:]
            for each in readers.values():
                each.roll_back(len(owners))
    return readers


TINY = make_pair("llama", 0)


@pytest.mark.slow
@hypothesis_settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), room=st.integers(1, 60))
def test_the_steps_of_any_trace_add_up_to_its_totals(seed: int, room: int) -> None:
    chaos = Chaos(seed)
    begin = time.perf_counter()
    out = Router(TINY, chaos, ahead=1).generate(
        prompt_text(seed % 9), max_new_tokens=room, temperature=1.0, seed=seed
    )
    wall = time.perf_counter() - begin
    steps, cost = out.trace.steps, out.cost
    readers = simulate(out.trace, chaos)
    for writer in WRITERS:
        usage = getattr(cost, writer)
        # What stays of a draft is in the step that takes its place as well.
        twice = sum(s.writers[: s.inherited].count(writer) for s in steps)
        assert usage.written == sum(s.by(writer) for s in steps) - twice
        assert usage.discarded == sum(s.by(writer) for s in steps if s.discarded) - twice
        assert usage.processed == readers[writer].processed
        assert usage.forwards == readers[writer].forwards
    assert out.token_ids == [t for s in out.trace.kept for t in s.token_ids]
    assert cost.discarded_tokens == cost.small.discarded + cost.large.discarded
    assert cost.hand_overs == out.trace.hand_overs
    assert cost.flops_paper == sum(
        2 * TINY.shapes[w].parameters * getattr(cost, w).written for w in WRITERS
    )
    assert cost.flops_processed == cost.small.flops + cost.large.flops
    assert cost.bytes_read == pytest.approx(cost.small.bytes_read + cost.large.bytes_read)
    kept = out.trace.kept
    large = sum(s.by("large") for s in kept)
    assert cost.large_token_share == large / len(out.token_ids)
    assert cost.large_step_share == sum(s.writer == "large" for s in kept) / len(kept)
    # Both clocks run inside the call. Steps are timed apart: what lies between them is in neither.
    milliseconds = sum(s.milliseconds for s in steps)
    assert all(s.milliseconds > 0 for s in steps)
    assert milliseconds / 1e3 <= wall
    assert cost.seconds <= wall
    # What results keep of the steps adds up to the same.
    records = step_records(out.trace)
    twice = sum(r.inherited for r in records)
    assert sum(r.tokens for r in records if r.discarded) - twice == cost.discarded_tokens
    assert sum(r.tokens for r in records) - twice == cost.small.written + cost.large.written
    assert sum(r.others for r in records if not r.discarded) == sum(len(s.others) for s in kept)
    assert sum(r.prefilled for r in records) == sum(s.prefilled for s in steps)


def kind(verdict: Any) -> str:
    if isinstance(verdict, Mend):
        return "mend, rest" if verdict.rest else "mend"
    return str(verdict)


@pytest.mark.slow
def test_chaos_does_everything() -> None:
    """The property above would be empty if none of this ever happened."""
    seen = set()
    for seed in range(16):
        chaos = Chaos(seed)
        out = Router(TINY, chaos, ahead=1).generate(
            prompt_text(seed % 9), max_new_tokens=40, temperature=1.0, seed=seed
        )
        seen |= {*map(kind, chaos.verdicts), chaos.looks_ahead, "graded" if chaos.grades else ""}
        seen |= {"hand-over"} if out.cost.hand_overs > 2 else set()
    assert seen >= {
        "small",
        "large",
        "redo",
        "mend",
        "mend, rest",
        "restart",
        True,
        False,
        "graded",
        "hand-over",
    }
