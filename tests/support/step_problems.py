"""Cases of ``step_update_`` on every backend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steer_kernels import StepState, step_update_, token_classes
from steer_kernels.ops import step_update as op_module

EOS = 1


# Tokens of every kind: halves alone, at either end and in words, the delimiter merged and doubled.
WORDS = ["<unk>", "<eos>", "\n", "\n\n", ".\n\n", ".\n", "\n.", "\nw1", "w1\n", "w1\n\n", "\n\nw1"]


WORDS += ["w1\nw2", "\n\n\n", " \n", "\n ", ".", " ", "w1", "w2", "\n\n,", "é"]


CLASSES = token_classes(WORDS, end_of_text=[EOS])


Step = Callable[..., None]


def _by_definition(
    state: StepState,
    token: Tensor,
    score: Tensor,
    token_class: Tensor,
    active: Tensor | None = None,
    max_step: int = 512,
) -> None:
    op_module._fallback(*state, token, score, token_class, active=active, max_step=max_step)


def _on_cuda(
    state: StepState,
    token: Tensor,
    score: Tensor,
    token_class: Tensor,
    active: Tensor | None = None,
    max_step: int = 512,
) -> None:
    there = StepState(*(field.cuda() for field in state))
    mask = None if active is None else active.cuda()
    step_update_(there, token.cuda(), score.cuda(), token_class.cuda(), mask, max_step)
    for here, field in zip(state, there, strict=True):
        here.copy_(field)


BACKENDS: dict[str, Step] = {"reference": _by_definition, "cpu": step_update_, "cuda": _on_cuda}


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


def copy_of(state: StepState) -> StepState:
    return StepState(*(field.clone() for field in state))


def assert_same(a: StepState, b: StepState, rows: object = slice(None)) -> None:
    """Bit for bit, so that NaN equals NaN."""
    for name, x, y in zip(StepState._fields, a, b, strict=True):
        x, y = x[rows], y[rows]
        if x.is_floating_point():
            x, y = x.contiguous().view(torch.int64), y.contiguous().view(torch.int64)
        assert torch.equal(x, y), f"{name} differs"
