"""Every op with inputs, and what its definition says of them: for smoke, sanitized and profiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from steer_decode.bench.kernels.plan import SAMPLINGS
from support.tolerances import LOGIT_STATS, assert_close, torch_chain
from torch import Tensor

from steer_kernels import (
    LogitStats,
    Packed,
    PackedDraft,
    RowFlag,
    StepState,
    TokenClass,
    accept_drafts,
    kv_append_,
    logit_stats,
    reference,
    sample_logits,
    step_update_,
    unpack,
)

Outputs = tuple[Tensor, ...]

LIKELY = 1e-4  # share of a token that is drawn: far beyond the rounding of sums
ROWS_AT_ONCE = 32  # of the definition, which takes some 2 GB for them
LOGPROB_ERROR = 3e-5  # an element at the edge of the nucleus may go either way


@dataclass(frozen=True)
class Subject:
    """An op over given inputs.

    Attributes:
        call: runs it; returns what it has written.
        spoil: overwrites what the op is to write, given what an earlier call returned, and brings
            back what it reads.
        check: raises AssertionError where outputs differ from the definition.
    """

    name: str
    call: Callable[[], Outputs]
    spoil: Callable[[Outputs], None]
    check: Callable[[Outputs], None]


def subjects(
    device: str,
    batch: int,
    vocab: int,
    k: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    samplings: Sequence[str] = tuple(SAMPLINGS),
    judge: str = "",
) -> list[Subject]:
    """All ops over `batch` rows.

    Args:
        judge: the device on which the definition is computed; that of the op by default.
    """
    generator = torch.Generator(judge or device).manual_seed(batch)
    logits = noise(batch, vocab, dtype, generator)
    found = [_stats(logits, k, device)]
    found += [_sample(logits, name, k, device, generator) for name in samplings]
    found.append(_accept(logits, k, device, generator))
    return [*found, _append(batch, dtype, device), _step(batch, vocab, device)]


def noise(batch: int, vocab: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal logits with a deviation of 4, so that a nucleus is longer than the kernels' lists.

    From eight rows on, the last four are -inf, hold a NaN, hold +inf, and are masked mostly.
    """
    wide = torch.randn(batch, vocab, generator=generator, device=generator.device)
    logits = wide.mul_(4).to(dtype)
    if logits.shape[0] >= 8:
        logits[-4] = -torch.inf
        logits[-3, logits.shape[1] // 2] = torch.nan
        logits[-2, -1] = torch.inf
        logits[-1, 10:-10] = -torch.inf
    return logits


def overwrite(outputs: Outputs) -> None:
    """All bits set: NaN in floats, -1 in integers."""
    for tensor in outputs:
        tensor.view(torch.uint8).fill_(0xFF)


def _stats(logits: Tensor, k: int, device: str) -> Subject:
    here = logits.to(device)
    return Subject(
        "logit_stats",
        lambda: tuple(logit_stats(here, k)),
        overwrite,
        lambda out: _check_stats(out, logits, k),
    )


def _check_stats(out: Outputs, logits: Tensor, k: int) -> None:
    actual = LogitStats(*(field.to(logits.device) for field in out))
    for first in range(0, logits.shape[0], ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        truth = LogitStats(*reference.logit_stats(logits[rows], k, out_dtype=torch.float64))
        chain = torch_chain(logits[rows])
        _require_equal("valid", actual.valid[rows], truth.valid)
        _require_equal("topk_ids", actual.topk_ids[rows], truth.topk_ids)
        for name, tolerance in LOGIT_STATS.items():
            by_torch = chain[name] if tolerance.times_torch else None
            field, wanted = getattr(actual, name)[rows], getattr(truth, name)
            assert_close(name, field, wanted, by_torch, tolerance)


def _sample(
    logits: Tensor, sampling: str, k: int, device: str, generator: torch.Generator
) -> Subject:
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **SAMPLINGS[sampling]}
    uniform, token, logprob = _expected_draws(logits, settings, generator)
    here, there = logits.to(device), uniform.to(device)

    def check(out: Outputs) -> None:
        _check_stats(out[:6], logits, k)
        _require_equal("token", out[6].to(token.device), token)
        torch.testing.assert_close(
            out[7].to(logprob.device).double(),
            logprob,
            rtol=4e-6,
            atol=LOGPROB_ERROR,
            equal_nan=True,
        )

    return Subject(
        f"sample_logits {sampling}",
        lambda: tuple(sample_logits(here, there, k=k, **settings)),  # type: ignore[arg-type]
        overwrite,
        check,
    )


def _expected_draws(
    logits: Tensor, settings: dict[str, float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform numbers in the middle of a likely token's share, and what is to be drawn by them."""
    uniforms, tokens, logprobs = [], [], []
    cuts = settings["temperature"] or 1.0, int(settings["top_k"]), settings["top_p"], 0.0
    for first in range(0, logits.shape[0], ROWS_AT_ONCE):
        x = logits[first : first + ROWS_AT_ONCE]
        d = x.double() + 0.0
        top = d.amax(-1, keepdim=True)
        d = torch.where(d == top, 0.0, (d - top) / cuts[0])
        share = d.where(reference.kept(x.double() + 0.0, *cuts), -torch.inf).softmax(-1)
        likely = (share >= LIKELY).double()
        likely[likely.sum(-1) == 0, 0] = 1.0  # a row that is not valid: any will do
        drawn = torch.multinomial(likely, 1, generator=generator)
        middle = (share.cumsum(-1) - share / 2).gather(-1, drawn)[:, 0]
        uniform = middle.nan_to_num(0.5).clamp(0.0, 1.0 - 2.0**-53)
        token, logprob = reference.draw(
            x, uniform, settings["temperature"], cuts[1], cuts[2], cuts[3]
        )
        uniforms.append(uniform)
        tokens.append(token)
        logprobs.append(logprob)
    return torch.cat(uniforms), torch.cat(tokens), torch.cat(logprobs)


def _accept(logits: Tensor, k: int, device: str, generator: torch.Generator) -> Subject:
    """Likely drafts, of which every second is refused; every fourth row has none."""
    shape, there = logits.shape, generator.device
    small = torch.randn(shape, generator=generator, device=there).mul_(4).to(logits.dtype)
    drafts = small.argmax(-1)
    drafts[3::4] = -1
    parts = [slice(first, first + ROWS_AT_ONCE) for first in range(0, shape[0], ROWS_AT_ONCE)]
    uniform = torch.cat([_judged_by(logits[r], small[r], drafts[r], generator) for r in parts])
    given = [tensor.to(device) for tensor in (logits, drafts, uniform, small)]

    def check(out: Outputs) -> None:
        packed = out[0].to(there)
        _check_stats(tuple(unpack(packed[:, :-2])[:6]), logits, k)
        for rows in parts:
            truth = reference.accept_drafts(
                logits[rows], drafts[rows], uniform[rows], small[rows], k=k, out_dtype=torch.float64
            )
            for column in (Packed.TOKEN, PackedDraft.ACCEPTED):
                _require_equal(column.name.lower(), packed[rows, column], truth[:, column])
            for column in (Packed.LOGPROB, PackedDraft.DRAFT_LOGPROB):
                torch.testing.assert_close(
                    packed[rows, column],
                    truth[:, column],
                    rtol=4e-6,
                    atol=LOGPROB_ERROR,
                    equal_nan=True,
                )

    return Subject("accept_drafts", lambda: (accept_drafts(*given, k=k),), overwrite, check)


def _judged_by(logits: Tensor, small: Tensor, drafts: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform numbers in the middle of what accepts a draft, or redraws a likely token."""
    p, q = logits.double().softmax(-1), small.double().softmax(-1)
    at = drafts.clamp(min=0)[:, None]
    ratio = (p.gather(-1, at) / q.gather(-1, at)).clamp(max=1.0)[:, 0].where(drafts >= 0, 0.0)
    rest = (p - q).clamp(min=0.0).where((drafts >= 0)[:, None], p)
    share = rest / rest.sum(-1, keepdim=True)
    likely = (share >= LIKELY).double()
    likely[likely.sum(-1) == 0, 0] = 1.0  # a row that is not valid: any will do
    token = torch.multinomial(likely, 1, generator=generator)
    middle = (share.cumsum(-1) - share / 2).gather(-1, token)[:, 0]
    accepts = (torch.arange(len(drafts), device=drafts.device) % 2 == 0) & (ratio > LIKELY)
    uniform = torch.where(accepts, ratio / 2, ratio + (1.0 - ratio) * middle)
    return uniform.nan_to_num(0.5).clamp(0.0, 1.0 - 2.0**-53)


def _append(batch: int, dtype: torch.dtype, device: str) -> Subject:
    """Ragged counts, rows in another order, and 300 positions of 2 heads of 64."""
    generator = torch.Generator().manual_seed(batch)
    shape, new = (batch + 2, 2, 300, 64), (batch, 2, 5, 64)
    numbers = [torch.randn(new, generator=generator).to(dtype) for _ in range(2)]
    rows = torch.randperm(batch + 2, generator=generator)[:batch]
    starts = torch.randint(0, 295, (batch,), generator=generator)
    counts = torch.randint(0, 6, (batch,), generator=generator)
    empty = [torch.full(shape, torch.nan, dtype=dtype) for _ in range(2)]
    expected = [cache.clone() for cache in empty]
    reference.kv_append_(expected[0], expected[1], numbers[0], numbers[1], rows, starts, counts)
    caches = [cache.to(device, copy=True) for cache in empty]
    k, v = (tensor.to(device) for tensor in numbers)
    where = [tensor.to(device) for tensor in (rows, starts, counts)]

    def call() -> Outputs:
        kv_append_(caches[0], caches[1], k, v, where[0], where[1], where[2])
        return tuple(caches)

    def check(out: Outputs) -> None:
        for name, actual, wanted in zip(("k_cache", "v_cache"), out, expected, strict=True):
            same = actual.cpu().view(torch.uint8), wanted.view(torch.uint8)  # NaN equals NaN
            _require_equal(name, *same)

    return Subject("kv_append_", call, lambda out: _fill(out, torch.nan), check)


def _fill(tensors: Outputs, value: float) -> None:
    for tensor in tensors:
        tensor.fill_(value)


def _step(batch: int, vocab: int, device: str) -> Subject:
    """One token of rows in the middle of a step; every third is not active."""
    generator = torch.Generator().manual_seed(batch)
    state = StepState.of_prompts([[1] * 16] * batch, 100)
    state.flag.copy_(
        torch.tensor([RowFlag.STEP_CLOSED, RowFlag.SAID])[torch.arange(batch) % 2].to(torch.uint8)
    )
    token = torch.randint(vocab, (batch,), generator=generator)
    score = torch.randn(batch, generator=generator)
    classes = [int(TokenClass.SAYS_SOMETHING | TokenClass.COUNTS), int(TokenClass.HOLDS_DELIMITER)]
    table = torch.tensor(classes, dtype=torch.uint8)[torch.arange(vocab) % 2]
    active = torch.arange(batch) % 3 != 2
    expected = [field.clone() for field in state]
    reference.step_update_(*StepState(*expected), token, score, table, active)
    start = [field.to(device) for field in state]
    here = StepState(*(field.clone() for field in start))
    given = [tensor.to(device) for tensor in (token, score, table, active)]

    def call() -> Outputs:
        step_update_(here, given[0], given[1], given[2], given[3])
        return tuple(here)

    def back(out: Outputs) -> None:
        for field, first in zip(here, start, strict=True):
            field.copy_(first)

    def check(out: Outputs) -> None:
        for name, actual, wanted in zip(StepState._fields, out, expected, strict=True):
            _require_equal(name, actual.cpu(), wanted)

    return Subject("step_update_", call, back, check)


def _require_equal(name: str, actual: Tensor, expected: Tensor) -> None:
    if not torch.equal(actual, expected):
        off = (actual != expected).flatten().nonzero()[:, 0]
        first = int(off[0]) if len(off) else 0
        raise AssertionError(
            f"{name}: {len(off)} of {expected.numel()} are wrong, the first at {first}: "
            f"{actual.flatten()[first].item()} for {expected.flatten()[first].item()}"
        )
