"""What one case calls: its inputs, our op, and what the peers do for the same purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import steer_kernels
from steer_kernels import RowFlag, StepState, TokenClass, reference

from . import peers
from .plan import LOGITS_OPS, Case

Call = Callable[[], object]

OURS, COPY = "steer", "copy"
HEADS, HEAD_SIZE, CONTEXT = 4, 128, 512  # one layer of Qwen2.5-7B, after a short prompt
STEP_CAPACITY = 4096
STEP_BYTES_A_ROW = 120  # what step_update_ reads and writes

# What a plain copy of the input moves, for each byte that counts as the op's own: kv_append_ reads
# and writes as a copy does, the others read alone.
COPY_BYTES = {"kv_append_": 1.0, "logit_stats": 2.0, "sample_logits": 2.0}

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
    "kv_append_": ("index_put_", f"cat at {CONTEXT}", COPY),
    "step_update_": ("torch",),
}


class Workload(NamedTuple):
    """Calls by name, ours under `OURS`; bytes that ours has to move; how to undo a sample."""

    calls: dict[str, Call]
    bytes: int
    reset: Call | None = None


def backend(case: Case) -> str:
    """What stands behind our op for this case."""
    logits = case.op in LOGITS_OPS
    info = steer_kernels.build_info()
    if case.device == "cpu":
        if info["backend"] == "reference":
            return "reference"
        return f"cpu-{info['cpu_isa']}" if logits else "cpu"  # the others have no vector code
    if logits:
        return "triton" if info["triton"] else "reference"
    return "cuda" if info["cuda"] and "error" not in info["cuda"] else "reference"


def stats_chain(logits: Tensor, k: int) -> tuple[Tensor, ...]:
    """logit_stats as one writes it in torch."""
    x = logits.float()
    logprobs = torch.log_softmax(x, -1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    values, ids = x.topk(k, -1)
    return values[:, 0], torch.logsumexp(x, -1), entropy, values, ids


def sample_chain(logits: Tensor, k: int) -> tuple[Tensor, ...]:
    """sample_logits at temperature 1 as one writes it in torch."""
    x = logits.float()
    logprobs = torch.log_softmax(x, -1)
    probs = logprobs.exp()
    entropy = -(probs * logprobs).sum(-1)
    values, ids = x.topk(k, -1)
    token = torch.multinomial(probs, 1)
    logprob = logprobs.gather(-1, token)
    return values[:, 0], torch.logsumexp(x, -1), entropy, values, ids, token, logprob


def workload(case: Case, *, compiled: bool = True) -> Workload:
    """Inputs and calls of a case.

    Args:
        case: one case of a plan that was checked.
        compiled: whether torch.compile of the chain is among the peers; it is compiled by its first
            call.
    """
    if case.op in LOGITS_OPS:
        return _logits(case, compiled)
    return _kv_append(case) if case.op == "kv_append_" else _step_update(case)


def _logits(case: Case, compiled: bool) -> Workload:
    assert case.vocab is not None
    assert case.k is not None
    k = case.k
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(case.batch, case.vocab, generator=generator).mul_(4).to(case.device)
    logits = wide.to(getattr(torch, case.dtype))
    uniform = torch.rand(case.batch, generator=generator).to(case.device)
    target = torch.empty_like(logits)
    sampling = case.op == "sample_logits"
    chain = sample_chain if sampling else stats_chain
    calls: dict[str, Call] = {}
    if sampling:
        calls[OURS] = lambda: steer_kernels.sample_logits(logits, uniform, k=k)
    else:
        calls[OURS] = lambda: steer_kernels.logit_stats(logits, k)
    calls["torch"] = lambda: chain(logits, k)
    if compiled:
        torch._dynamo.reset()  # or the ninth shape would be refused and run uncompiled
        fused = torch.compile(chain, dynamic=False)
        calls["torch.compile"] = lambda: fused(logits, k)
    if sampling:
        calls["softmax, multinomial"] = lambda: torch.multinomial(logits.float().softmax(-1), 1)
        calls["logit_stats"] = lambda: steer_kernels.logit_stats(logits, k)
    calls["torch.max fp32"] = lambda: torch.max(wide)
    calls[COPY] = lambda: target.copy_(logits)
    calls.update(peers.installed(case.op, logits, k))
    return Workload(calls, logits.numel() * logits.element_size())


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

    calls: dict[str, Call] = {
        OURS: lambda: steer_kernels.step_update_(state, token, score, table),
        "torch": lambda: reference.step_update_(*state, token, score, table),
    }
    return Workload(calls, case.batch * STEP_BYTES_A_ROW, reset)
