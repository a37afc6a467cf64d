"""What one case calls.

Its inputs, our op, and what the peers do for the same purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor

import steer_kernels
from steer_kernels import RowFlag, StepState, TokenClass, reference

from . import drafts, peers
from .plan import LOGITS_OPS, SAMPLINGS, Case

Call = Callable[[], object]

OURS, COPY = "steer", "copy"
HEADS, HEAD_SIZE, CONTEXT = 4, 128, 512  # one layer of Qwen2.5-7B, after a short prompt
STEP_CAPACITY = 4096
STEP_BYTES_A_ROW = 120  # what step_update_ reads and writes

# Names that `workload` gives on any machine; libraries that may be installed add to them.
PEERS: dict[str, tuple[str, ...]] = {
    "logit_stats": ("torch", "torch.compile", "torch.max fp32", COPY),
    "sample_logits": (
        "torch",
        "torch.compile",
        "softmax, multinomial",
        "logit_stats",
        "torch.max fp32",
        COPY,
    ),
    "accept_drafts": ("torch", "torch.compile", "sample_logits_packed", COPY),
    "kv_append_": ("index_put_", f"cat at {CONTEXT}", COPY),
    "step_update_": ("torch", COPY),
}


class Workload(NamedTuple):
    """Calls by name, ours under `OURS`.

    Also the bytes that ours has to move, and how to undo a sample.
    """

    calls: dict[str, Call]
    bytes: int
    reset: Call | None = None


def backend(case: Case) -> str:
    """What stands behind our op for this case."""
    logits = case.op in LOGITS_OPS or case.op == "accept_drafts"
    info = steer_kernels.build_info()
    if case.device == "cpu":
        if info["backend"] == "reference":
            return "reference"
        return f"cpu-{info['cpu_isa']}" if logits else "cpu"  # the others have no vector code
    there = info["cuda"] is not None and "error" not in info["cuda"]
    if not logits:
        return "cuda" if there else "reference"
    # An older CUDA part has no kernel of logits.
    there &= hasattr(torch.ops.steer_kernels, "_sample_rows")
    if there and case.op in LOGITS_OPS:
        return "cuda"
    return "triton" if info["triton"] else "reference"


def stats_chain(logits: Tensor, k: int) -> tuple[Tensor, ...]:
    """logit_stats as one writes it in torch."""
    x = logits.float()
    logprobs = torch.log_softmax(x, -1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    values, ids = x.topk(k, -1)
    return values[:, 0], torch.logsumexp(x, -1), entropy, values, ids


def sample_chain(
    logits: Tensor, k: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, ...]:
    """sample_logits as one writes it in torch."""
    x = logits.float()
    logprobs = torch.log_softmax(x, -1)
    probs = logprobs.exp()
    entropy = -(probs * logprobs).sum(-1)
    values, ids = x.topk(k, -1)
    if temperature == 0:
        token = x.argmax(-1, keepdim=True)
    else:
        if top_k or top_p < 1:
            logprobs = torch.log_softmax(_kept(x, top_k, top_p), -1)
            probs = logprobs.exp()
        token = torch.multinomial(probs, 1)
    logprob = logprobs.gather(-1, token)
    return values[:, 0], torch.logsumexp(x, -1), entropy, values, ids, token, logprob


def _kept(x: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits with -inf for what is cut, as the warpers of transformers do it."""
    if top_k:
        x = x.masked_fill(x < x.topk(top_k, -1).values[:, -1:], -torch.inf)
    if top_p < 1:
        ordered, order = x.sort(-1, descending=True)
        probs = ordered.softmax(-1)
        cut = probs.cumsum(-1) - probs >= top_p
        x = x.masked_fill(torch.empty_like(cut).scatter_(-1, order, cut), -torch.inf)
    return x


def workload(case: Case, *, compiled: bool = True, inputs: int = 1) -> Workload:
    """Inputs and calls of a case.

    Args:
        case: one case of a plan that was checked.
        compiled: whether torch.compile of the chain is among the peers; it is compiled by its first
            call.
        inputs: logits that calls take in turn, so that none finds its own in a cache.
    """
    if case.op in LOGITS_OPS:
        return _logits(case, compiled, inputs)
    if case.op == "accept_drafts":
        return _accept_drafts(case, compiled, inputs)
    return _kv_append(case) if case.op == "kv_append_" else _step_update(case)


def _logits(case: Case, compiled: bool, inputs: int) -> Workload:
    assert case.vocab is not None
    assert case.k is not None
    generator = torch.Generator(case.device).manual_seed(0)
    shape = case.batch, case.vocab
    wide = [
        torch.randn(shape, generator=generator, device=case.device).mul_(4) for _ in range(inputs)
    ]
    uniform = torch.rand(case.batch, generator=generator, device=case.device)
    fused = None
    if compiled:
        torch._dynamo.reset()  # or the ninth shape would be refused and run uncompiled
        fused = torch.compile(_chain(case), dynamic=False)
    found = [_logits_calls(case, x, uniform, fused) for x in wide]
    size = getattr(torch, case.dtype).itemsize
    return Workload(_in_turn(found), case.batch * case.vocab * size)


def _accept_drafts(case: Case, compiled: bool, inputs: int) -> Workload:
    """The rows of `batch` places of one text, the last behind all drafts."""
    assert case.k is not None
    fused = None
    if compiled:
        torch._dynamo.reset()
        fused = torch.compile(drafts.chain, dynamic=False)
    given = [drafts.drafted(case, seed) for seed in range(inputs)]
    found = [drafts.calls_of(one, case.k, OURS, COPY, fused) for one in given]
    return Workload(_in_turn(found), sum(x.nbytes for x in given[0][:2]))


def _chain(case: Case) -> Callable[[Tensor, int], object]:
    if case.op == "logit_stats":
        return stats_chain
    settings: dict[str, float] = SAMPLINGS[case.sampling or "plain"]
    return lambda logits, k: sample_chain(logits, k, **settings)  # type: ignore[arg-type]


def _logits_calls(
    case: Case, wide: Tensor, uniform: Tensor, fused: Callable[[Tensor, int], object] | None
) -> dict[str, Call]:
    """Our call and those of the peers, on the same logits."""
    k = case.k
    assert k is not None
    logits = wide.to(getattr(torch, case.dtype))
    target, chain = torch.empty_like(logits), _chain(case)
    calls: dict[str, Call] = {}
    if case.op == "sample_logits":
        settings: dict[str, float] = SAMPLINGS[case.sampling or "plain"]
        calls[OURS] = lambda: steer_kernels.sample_logits(
            logits,
            uniform,
            k=k,
            **settings,  # type: ignore[arg-type]
        )
    else:
        calls[OURS] = lambda: steer_kernels.logit_stats(logits, k)
    calls["torch"] = lambda: chain(logits, k)
    if fused is not None:
        calls["torch.compile"] = lambda: fused(logits, k)
    cut = case.sampling not in (None, "plain")
    if case.op == "sample_logits":
        if not cut:
            calls["softmax, multinomial"] = lambda: torch.multinomial(logits.float().softmax(-1), 1)
        calls["logit_stats"] = lambda: steer_kernels.logit_stats(logits, k)
    calls["torch.max fp32"] = lambda: torch.max(wide)
    calls[COPY] = lambda: target.copy_(logits)
    if not cut:
        calls.update(peers.installed(case.op, logits, k))
    return calls


def _in_turn(found: Sequence[Mapping[str, Call]]) -> dict[str, Call]:
    """Calls that go through the inputs one after another; with one input, its calls themselves."""
    if len(found) == 1:
        return dict(found[0])

    def turning(name: str) -> Call:
        turns = cycle([calls[name] for calls in found])
        return lambda: next(turns)()

    return {name: turning(name) for name in found[0]}


def _kv_append(case: Case) -> Workload:
    """One token a row, behind `CONTEXT` others, for one layer."""
    batch, dtype = case.batch, getattr(torch, case.dtype)
    shape = (batch, HEADS, CONTEXT + 1, HEAD_SIZE)
    new = [torch.randn(batch, HEADS, 1, HEAD_SIZE).to(case.device, dtype) for _ in range(2)]
    caches = [torch.zeros(shape, dtype=dtype, device=case.device) for _ in range(2)]
    rows = torch.arange(batch, device=case.device)
    starts, counts = torch.full_like(rows, CONTEXT), torch.ones_like(rows)
    views = [cache[:, :, CONTEXT:] for cache in caches]

    def each(call: Callable[[Tensor, Tensor], object], to: Sequence[Tensor]) -> Call:
        return lambda: [call(a, b) for a, b in zip(to, new, strict=True)]

    def put(cache: Tensor, tokens: Tensor) -> None:
        cache[rows, :, starts] = tokens[:, :, 0]

    short = [cache[:, :, :CONTEXT].contiguous() for cache in caches]
    calls: dict[str, Call] = {
        OURS: lambda: steer_kernels.kv_append_(
            caches[0], caches[1], new[0], new[1], rows, starts, counts
        ),
        "index_put_": each(put, caches),
        f"cat at {CONTEXT}": each(lambda cache, tokens: torch.cat([cache, tokens], 2), short),
        COPY: each(lambda view, tokens: view.copy_(tokens), views),
    }
    return Workload(calls, 2 * sum(x.numel() * x.element_size() for x in new))


def _step_update(case: Case) -> Workload:
    """Rows in the middle of an answer; every sample starts at the same place again."""
    assert case.vocab is not None
    state = StepState.of_prompts([[1] * 16] * case.batch, STEP_CAPACITY - 16, case.device)
    start = StepState(*(field.clone() for field in state))
    start.flag.fill_(RowFlag.STEP_CLOSED)
    token = torch.randint(case.vocab, (case.batch,)).to(case.device)
    score = torch.randn(case.batch).to(case.device)
    plain = int(TokenClass.SAYS_SOMETHING | TokenClass.COUNTS)
    table = torch.full((case.vocab,), plain, dtype=torch.uint8, device=case.device)

    def reset() -> None:
        for field, first in zip(state[1:], start[1:], strict=True):  # the transcript may stay
            field.copy_(first)

    # Its bytes, half of them read and half written: a peer that may be part of a CUDA graph.
    source = torch.zeros(case.batch, STEP_BYTES_A_ROW // 2, dtype=torch.uint8, device=case.device)
    target = torch.empty_like(source)
    calls: dict[str, Call] = {
        OURS: lambda: steer_kernels.step_update_(state, token, score, table),
        "torch": lambda: reference.step_update_(*state, token, score, table),
        COPY: lambda: target.copy_(source),
    }
    return Workload(calls, case.batch * STEP_BYTES_A_ROW, reset)
