"""What a case of ``accept_drafts`` calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import steer_kernels

from .plan import Case

Call = Callable[[], object]
LAST = 1.0 - 2.0**-24  # a number that refuses any draft which can be refused


class Drafted(NamedTuple):
    """Rows of both models, drafts and numbers, on one device."""

    large: Tensor
    small: Tensor
    drafts: Tensor
    uniform: Tensor


def drafted(case: Case, seed: int) -> Drafted:
    """Peaked logits of two models that agree by three quarters.

    Every second draft is one that the large model has less of, and is refused; the last row is the
    place behind the drafts and has none.
    """
    generator = torch.Generator(case.device).manual_seed(seed)
    shape, dtype = (case.batch, case.vocab or 0), getattr(torch, case.dtype)

    def noise() -> Tensor:
        return torch.randn(shape, generator=generator, device=case.device)

    wide = noise().mul_(4)
    large, small = wide.to(dtype), (wide + noise()).to(dtype)
    drafts = (small.float().softmax(-1) - large.float().softmax(-1)).argmax(-1)
    drafts[-1] = -1
    uniform = torch.zeros(case.batch, dtype=torch.float64, device=case.device)
    uniform[::2] = LAST
    return Drafted(large, small, drafts, uniform)


def chain(large: Tensor, small: Tensor, drafts: Tensor, uniform: Tensor) -> Tensor:
    """The tokens, as one finds them in torch.

    Without a look of the host, and without statistics.
    """
    p, q = large.float().softmax(-1), small.float().softmax(-1)
    at = drafts.clamp(min=0)[:, None]
    ratio = (p.gather(1, at) / q.gather(1, at))[:, 0]
    rest = torch.where((drafts >= 0)[:, None], (p - q).clamp(min=0.0), p)
    again = torch.multinomial(rest, 1)[:, 0]
    return torch.where((uniform < ratio) & (drafts >= 0), drafts, again)


def calls_of(
    given: Drafted, k: int, ours: str, copy: str, fused: Callable[..., object] | None
) -> dict[str, Call]:
    """Our call and those of the peers, by name."""
    large, small, drafts, uniform = given
    targets = [torch.empty_like(x) for x in (large, small)]
    calls: dict[str, Call] = {
        ours: lambda: steer_kernels.accept_drafts(large, drafts, uniform, small, k=k),
        "torch": lambda: chain(*given),
    }
    if fused is not None:
        calls["torch.compile"] = lambda: fused(*given)
    calls["sample_logits_packed"] = lambda: steer_kernels.sample_logits_packed(large, uniform, k=k)
    calls[copy] = lambda: [to.copy_(x) for to, x in zip(targets, (large, small), strict=True)]
    return calls
