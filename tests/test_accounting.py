"""The accounts of whole routed answers against what the models were really made to do.

Every call of either model is watched, PyTorch's FLOP counter sees every product in it, and a
simulation of the two watermarks says from the trace alone what either model had to read.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from steer_decode import Pair, Policy, RoutedOutput, Router, Step, StepStart, Trace
from steer_decode.cache_support import cache_argument
from steer_decode.cli.session import Models, make_policy
from steer_decode.cost import ModelShape
from steer_decode.demo import DOMAINS, pair_paths, problems
from steer_decode.policies import Question
from steer_decode.rows import step_records
from steer_decode.transcript import WRITERS, Writer
from tiny import make_pair, prompt_text
from torch.utils.flop_counter import FlopCounterMode

# Every built-in router, with settings at which the demo pair hands over.
ROUTERS = (
    *("small", "large", "random:share=0.5", "replay:writers=SLSSL", "first-token:threshold=0.4"),
    *("steer:gamma=0.6", "both-sides", "spec-reason", "spec-reason:grade=digit", "rsd"),
    *("ecotab", "corea:threshold=2", "corea:over=first:signal=margin:threshold=0.9", "learned"),
)
IN_ROUNDS = ("steer-cohort:gamma=0.6", "percentile:share=0.4")


class Call(NamedTuple):
    """One forward pass as a hook sees it; ``length`` and ``width`` with padding."""

    starts: list[int]
    counts: list[int]
    length: int
    width: int
    heads: int


@dataclass
class Watched:
    """Everything that the models of a pair were asked to compute."""

    calls: dict[Writer, list[Call]] = field(default_factory=lambda: {w: [] for w in WRITERS})
    flops: int = 0


@contextmanager
def watched(pair: Pair) -> Iterator[Watched]:
    seen = Watched()
    originals = {w: pair.model(w).forward for w in WRITERS}

    def forward(writer: Writer, *args: Any, **kwargs: Any) -> Any:
        span = kwargs[cache_argument(pair.model(writer))].span
        length = kwargs["input_ids"].shape[1]
        call = span.starts.tolist(), span.counts.tolist(), length, span.width
        seen.calls[writer].append(Call(*call, kwargs["logits_to_keep"]))
        with FlopCounterMode(display=False) as counter:
            out = originals[writer](*args, **kwargs)
        seen.flops += counter.get_total_flops()
        return out

    try:
        for writer in WRITERS:
            pair.model(writer).forward = wraps(originals[writer])(partial(forward, writer))
        yield seen
    finally:
        for writer in WRITERS:
            del pair.model(writer).forward


def pairs_attended(start: int, count: int) -> int:
    return sum(start + i + 1 for i in range(count))


def useful(shape: ModelShape, call: Call) -> int:
    """FLOPs of the tokens that were asked for: no padding, no masked half of a square."""
    return sum(
        2 * count * shape.body
        + 2 * call.heads * shape.head
        + 4 * len(shape.windows) * shape.query_width * pairs_attended(start, count)
        for start, count in zip(call.starts, call.counts, strict=True)
        if count
    )


def multiplied(shape: ModelShape, call: Call) -> int:
    """FLOPs of what eager attention multiplies: whole rectangles, and padding."""
    n, tokens = len(call.starts), len(call.starts) * call.length
    attention = 4 * len(shape.windows) * shape.query_width * tokens * call.width
    return 2 * tokens * shape.body + 2 * n * call.heads * shape.head + attention


def angle_flops(model: Any) -> int:
    """What the counter sees of a token's rotary angles: older transformers multiply matrices."""
    with FlopCounterMode(display=False) as counter:
        model.model.rotary_emb(torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.int64))
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def demo() -> Pair:
    pair = Pair.from_pretrained(*pair_paths())
    for writer in WRITERS:  # the counter sees nothing of fused attention on a CPU
        pair.model(writer).set_attn_implementation("eager")
    return pair


def policy(spec: str) -> Policy:
    made = make_policy(spec, Models("demo", None, None, None, None))
    if spec.endswith("grade=digit"):  # the demo pair has no chat template: any request will do
        made.question = lambda pair: Question(tuple(range(5, 17)), tuple(range(20, 30)))  # type: ignore[method-assign]
    return made


def agree(pair: Pair, seen: Watched, outputs: Sequence[RoutedOutput]) -> None:
    """Sums over the rows of a run are what the hooks and the counter have seen."""
    total = 0
    for writer in WRITERS:
        shape, model = pair.shapes[writer], pair.model(writer)
        usages = [getattr(output.cost, writer) for output in outputs]
        calls = seen.calls[writer]
        assert sum(u.forwards for u in usages) == sum(n > 0 for c in calls for n in c.counts)
        assert sum(u.processed for u in usages) == sum(sum(c.counts) for c in calls)
        assert sum(u.flops for u in usages) == sum(useful(shape, c) for c in calls)
        weights = shape.weight_bytes * (shape.body + shape.head) * len(calls)
        one = shape.weight_bytes * 2 * shape.kv_width * len(shape.windows)
        cached = one * sum(sum(c.starts) for c in calls)
        assert sum(u.bytes_read for u in usages) == pytest.approx(weights + cached, rel=1e-12)
        angles = angle_flops(model) * sum(len(c.starts) * c.length for c in calls)
        total += sum(multiplied(shape, c) for c in calls) + angles
    assert seen.flops == total


@pytest.mark.parametrize("spec", ROUTERS)
def test_one_answer_costs_what_its_models_were_made_to_do(demo: Pair, spec: str) -> None:
    problem = problems("math", 4, split="calibration")[3]
    room = 48 if spec.startswith("corea") else 16  # a whole answer, to be taken back
    with watched(demo) as seen:
        output = Router(demo, policy(spec)).generate(problem.prompt, max_new_tokens=room)
    assert bool(output.cost.discarded_tokens) >= spec.startswith("corea")
    agree(demo, seen, [output])
    # Alone, nothing is padded: what the counter saw, less the masked halves and the angles.
    masked = sum(
        4 * len(s.windows) * s.query_width * c.length * (c.length - 1) // 2
        for w, s in demo.shapes.items()
        for c in seen.calls[w]
    )
    angles = sum(c.length * angle_flops(demo.model(w)) for w in WRITERS for c in seen.calls[w])
    assert output.cost.flops_processed == seen.flops - masked - angles


@pytest.mark.parametrize(
    ("spec", "turns"),
    [*((spec, 1) for spec in IN_ROUNDS), ("corea:over=first", 1), ("first-token", 4), ("rsd", 4)],
)
def test_a_cohort_costs_what_its_models_were_made_to_do(demo: Pair, spec: str, turns: int) -> None:
    prompts = [p.prompt for name in DOMAINS for p in problems(name, 2, split="calibration")]
    with watched(demo) as seen:
        outputs = Router(demo, policy(spec), turns=turns).cohort(prompts, max_new_tokens=16)
    assert any(c.length > min(c.counts) for c in seen.calls["small"]), "nothing was padded"
    agree(demo, seen, outputs)
    # Padding is work that nobody asked for, and is not counted.
    assert sum(o.cost.flops_processed for o in outputs) < seen.flops


class Chaos(Policy):
    """Writes, takes back, restarts, looks and has steps read as a seed says."""

    name = "chaos"

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.looks_ahead, self.grades, self.restarts = (rng.random() < 0.5 for _ in range(3))
        self._rng = random.Random(seed + 1)
        self.verdicts: list[str] = []

    def before_step(self, start: StepStart) -> Writer:
        return self._rng.choice(WRITERS)

    def wants_grade(self, step: Step) -> bool:
        return self._rng.random() < 0.5

    def judge(self, step: Step, trace: Trace) -> Any:
        again = [s for s in trace.steps if s.discarded and s.index == step.index]
        choices: list[str] = [*WRITERS]
        if not again:
            choices.append("redo")
        if self.restarts and "restart" not in self.verdicts:
            choices.append("restart")
        self.verdicts.append(self._rng.choice(choices))
        return self.verdicts[-1]


class Reader:
    """What a model has read of a text that grows and shrinks, by the rules of the loop."""

    def __init__(self) -> None:
        self.mark = self.processed = self.forwards = 0
        self.knows = False  # the logits behind the last token that it read

    def catch_up(self, length: int) -> None:
        if self.mark == length and not self.knows:
            self.mark -= 1
        if self.mark < length:
            self._pass(length)

    def grade(self, length: int, tokens: int) -> None:
        self.roll_back(length - tokens)
        if not (self.knows and self.mark == length - tokens):
            self.roll_back(length - tokens - 1)
        self._pass(length)

    def roll_back(self, length: int) -> None:
        if length < self.mark:
            self.mark, self.knows = length, False

    def _pass(self, length: int) -> None:
        self.processed += length - self.mark
        self.forwards += 1
        self.mark, self.knows = length, True


def simulate(trace: Trace, chaos: Chaos) -> dict[Writer, Reader]:
    """What either model reads for this trace; checks what its steps say of hand-overs."""
    readers: dict[Writer, Reader] = {w: Reader() for w in WRITERS}
    owners: list[Writer | None] = [None] * len(trace.prompt_ids)
    verdicts = iter(chaos.verdicts)
    verdict = ""
    for step in trace.steps:
        start, reader = len(owners), readers[step.writer]
        assert step.prefilled == sum(owner != step.writer for owner in owners[reader.mark :])
        if chaos.looks_ahead and verdict != "redo":
            pending = start - readers["small"].mark
            readers["small"].catch_up(start)
            assert step.probed == (pending if step.writer == "large" else 0)
        for _ in step.token_ids:
            reader.catch_up(len(owners))
            owners.append(step.writer)
        if step.graded:
            readers["large"].grade(len(owners), len(step.token_ids))
        verdict = next(verdicts) if step.closed else ""
        if verdict in ("redo", "restart"):
            del owners[start if verdict == "redo" else len(trace.prompt_ids) :]
            for each in readers.values():
                each.roll_back(len(owners))
    return readers


TINY = make_pair("llama", 0)


@hypothesis_settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), room=st.integers(1, 60))
def test_the_steps_of_any_trace_add_up_to_its_totals(seed: int, room: int) -> None:
    chaos = Chaos(seed)
    begin = time.perf_counter()
    out = Router(TINY, chaos, turns=1).generate(
        prompt_text(seed % 9), max_new_tokens=room, temperature=1.0, seed=seed
    )
    wall = time.perf_counter() - begin
    steps, cost = out.trace.steps, out.cost
    readers = simulate(out.trace, chaos)
    for writer in WRITERS:
        mine = [s for s in steps if s.writer == writer]
        usage = getattr(cost, writer)
        assert usage.written == sum(len(s.token_ids) for s in mine)
        assert usage.discarded == sum(len(s.token_ids) for s in mine if s.discarded)
        assert usage.processed == readers[writer].processed
        assert usage.forwards == readers[writer].forwards
    assert out.token_ids == [t for s in out.trace.kept for t in s.token_ids]
    assert cost.discarded_tokens == cost.small.discarded + cost.large.discarded
    assert cost.hand_overs == out.trace.hand_overs
    assert cost.flops_paper == sum(
        2 * TINY.shapes[s.writer].parameters * len(s.token_ids) for s in steps
    )
    assert cost.flops_processed == cost.small.flops + cost.large.flops
    assert cost.bytes_read == pytest.approx(cost.small.bytes_read + cost.large.bytes_read)
    kept = out.trace.kept
    large = sum(len(s.token_ids) for s in kept if s.writer == "large")
    assert cost.large_token_share == large / len(out.token_ids)
    assert cost.large_step_share == sum(s.writer == "large" for s in kept) / len(kept)
    # Both clocks run inside the call. Steps are timed apart: what lies between them is in neither.
    milliseconds = sum(s.milliseconds for s in steps)
    assert all(s.milliseconds > 0 for s in steps)
    assert milliseconds / 1e3 <= wall
    assert cost.seconds <= wall
    # What results keep of the steps adds up to the same.
    records = step_records(out.trace)
    assert sum(r.tokens for r in records if r.discarded) == cost.discarded_tokens
    assert sum(r.tokens for r in records) == cost.small.written + cost.large.written
    assert sum(r.prefilled for r in records) == sum(s.prefilled for s in steps)


def test_chaos_does_everything() -> None:
    """The property above would be empty if none of this ever happened."""
    seen = set()
    for seed in range(12):
        chaos = Chaos(seed)
        out = Router(TINY, chaos, turns=1).generate(
            prompt_text(seed % 9), max_new_tokens=40, temperature=1.0, seed=seed
        )
        seen |= {*chaos.verdicts, chaos.looks_ahead, "graded" if chaos.grades else ""}
        seen |= {"hand-over"} if out.cost.hand_overs > 2 else set()
    assert seen >= {"small", "large", "redo", "restart", True, False, "graded", "hand-over"}
