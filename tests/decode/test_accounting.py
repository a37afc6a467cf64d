"""The accounts of whole routed answers against what the models were really made to do.

Every call of either model is watched, and PyTorch's FLOP counter sees every product in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, NamedTuple

import pytest
import torch
from steer_decode import Pair, Policy, RoutedOutput, Router
from steer_decode.cli.models import Models
from steer_decode.cli.routers import make_policy
from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import WRITERS, Writer
from steer_decode.demo import DOMAINS, pair_paths, problems
from steer_decode.engines.hf.cache_support import cache_argument
from steer_decode.policies import Question
from torch.utils.flop_counter import FlopCounterMode

# Every built-in router, with settings at which the demo pair hands over.
ROUTERS = (
    *("small", "large", "random:share=0.5", "replay:writers=SLSSL", "first-token:threshold=0.4"),
    *("steer:gamma=0.6", "both-sides:lost=0:sure=1", "spec-reason", "rsd", "ecotab", "learned"),
    "corea:over=first:signal=margin:threshold=0.9",
)
OTHER_SETTINGS = ("both-sides", "spec-reason:grade=digit", "corea:threshold=2")
IN_ROUNDS = ("steer-cohort:gamma=0.6", "percentile:share=0.4")


class Call(NamedTuple):
    """One forward pass as a hook sees it; ``length`` and ``width`` with padding."""

    starts: list[int]
    counts: list[int]
    length: int
    width: int
    heads: int

    @property
    def padded_heads(self) -> bool:
        """Whether drafts of several lengths were read together, the head on the longest of each."""
        return self.heads > 1 and len(self.counts) > 1


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
        span = kwargs[cache_argument(pair.model(writer))].state.span
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
    """FLOPs of the tokens that were asked for: no padding, no masked half of a square.

    Without the head where that was padded: a hook does not see how long each draft was.
    """
    return sum(
        2 * count * shape.body
        + 2 * call.heads * shape.head * (not call.padded_heads)
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
    _ = pair.serving  # tries the models again with that, before anything is counted
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
        heads, rest = divmod(
            sum(u.flops for u in usages) - sum(useful(shape, c) for c in calls), 2 * shape.head
        )
        assert rest == 0
        if any(c.padded_heads for c in calls):
            # A head on each token of each draft, and on the one before where its logits are gone.
            heads += sum(c.heads for c in calls if c.heads > 1 and not c.padded_heads)
            drafts = [len(s.graded) for o in outputs for s in o.trace.steps if s.graded]
            assert sum(drafts) <= heads <= sum(drafts) + len(drafts)
        else:
            assert heads == 0
        weights = shape.weight_bytes * (shape.body + shape.head) * len(calls)
        one = shape.weight_bytes * 2 * shape.kv_width * len(shape.windows)
        cached = one * sum(sum(c.starts) for c in calls)
        assert sum(u.bytes_read for u in usages) == pytest.approx(weights + cached, rel=1e-12)
        angles = angle_flops(model) * sum(len(c.starts) * c.length for c in calls)
        total += sum(multiplied(shape, c) for c in calls) + angles
    assert seen.flops == total


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "spec", [*ROUTERS, *(pytest.param(spec, marks=pytest.mark.slow) for spec in OTHER_SETTINGS)]
)
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
    [
        *((spec, 1) for spec in IN_ROUNDS),
        ("both-sides:lost=0", 1),
        pytest.param("corea:over=first", 1, marks=pytest.mark.slow),
        pytest.param("first-token", 4, marks=pytest.mark.slow),
        ("rsd", 4),
    ],
)
@pytest.mark.few(1)
def test_a_cohort_costs_what_its_models_were_made_to_do(demo: Pair, spec: str, turns: int) -> None:
    prompts = [p.prompt for name in DOMAINS for p in problems(name, 2, split="calibration")]
    with watched(demo) as seen:
        outputs = Router(demo, policy(spec), ahead=turns).cohort(prompts, max_new_tokens=16)
    assert any(c.length > min(c.counts) for c in seen.calls["small"]), "nothing was padded"
    agree(demo, seen, outputs)
    # Padding is work that nobody asked for, and is not counted.
    assert sum(o.cost.flops_processed for o in outputs) < seen.flops
