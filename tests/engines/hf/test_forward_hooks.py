"""What a user's forward hooks see of routed answers can enter a loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steer_decode import FirstTokenEntropy, Router, Session
from steer_decode.policies import parse_policy
from support.tiny import make_pair, prompt_text
from torch import Tensor, nn

PROMPTS = [prompt_text(i, 5 + 9 * i) for i in range(3)]


def learns(seen: list[Tensor]) -> bool:
    """Whether a linear probe over what was seen gets a gradient."""
    probe = nn.Linear(seen[0].shape[-1], 1)
    loss = torch.stack([probe(hidden).square().mean() for hidden in seen]).sum()
    loss.backward()
    return bool(probe.weight.grad is not None and probe.weight.grad.abs().sum() > 0)


def watch(model: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    model.model.layers[0].mlp.register_forward_hook(  # type: ignore[union-attr, operator]
        lambda module, args, output: seen.append(output)
    )
    return seen


@pytest.mark.parametrize("writer", ["small", "large"])
@pytest.mark.parametrize("turns", [1, 4])
@pytest.mark.parametrize("spec", ["first-token:threshold=0.7", "spec-reason"])
@pytest.mark.few(3)
def test_what_hooks_see_can_enter_a_loss(spec: str, turns: int, writer: str) -> None:
    pair = make_pair("llama")
    router = Router(pair, parse_policy(spec), ahead=turns)
    expected = [o.token_ids for o in router.cohort(PROMPTS, max_new_tokens=20)]
    seen = watch(pair.model(writer))  # type: ignore[arg-type]
    outputs = router.cohort(PROMPTS, max_new_tokens=20)
    assert [o.token_ids for o in outputs] == expected
    assert len(seen) > 1
    assert learns(seen)
    assert not any(hidden.requires_grad for hidden in seen)


def test_hooks_may_come_between_the_turns_of_a_session() -> None:
    pair = make_pair("llama")
    session = Session(Router(pair, FirstTokenEntropy(0.7)))
    text = PROMPTS[0]
    texts: list[Any] = []
    for turn in range(3):
        seen = watch(pair.small) if turn == 1 else []
        text += session.stream(text, max_new_tokens=12).finish().text + PROMPTS[1]
        texts.append(text)
        if turn == 1:
            assert learns(seen)
            for module in pair.small.modules():
                module._forward_hooks.clear()
    again = Session(Router(pair, FirstTokenEntropy(0.7)))
    text = PROMPTS[0]
    for expected in texts:
        text += again.stream(text, max_new_tokens=12).finish().text + PROMPTS[1]
        assert text == expected
