"""What a model does decides how it is served: exactly, in a slower way, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steer_decode import AlwaysSmall, Router, SteerError
from steer_decode.engines.hf.probe import probe
from steer_decode.engines.hf.rope import Scaled
from support import families
from support.backends import HAS_CPU_LAYERS
from support.tiny import FAMILIES, make_model, prompt_ids
from torch import nn

TOKENS = 24


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.few(8)
def test_a_usual_family_is_served_as_usual(family: str, dtype: torch.dtype) -> None:
    found = probe(make_model(family, 0).to(dtype))
    assert (found.problems, found.notes) == ((), ())
    assert found.cohort
    assert found.roll_back


def test_a_model_is_tried_once_and_again_with_another_attention() -> None:
    model = make_model("llama", 0)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    first = probe(model)
    tried = len(passes)
    assert tried == (4 if HAS_CPU_LAYERS else 5)  # packed rows are one pass
    assert probe(model) is first
    assert len(passes) == tried
    model.set_attn_implementation("eager")
    assert probe(model) is not first
    assert len(passes) > tried


def test_a_probe_leaves_the_model_and_the_seed_alone() -> None:
    model = make_model("llama", 0).train()
    before = torch.get_rng_state()
    probe(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "make",
    [
        families.gpt_neo,
        pytest.param(families.bloom, marks=families.needs_transformers_5),
        pytest.param(families.doge, marks=families.needs_transformers_5),
    ],
)
def test_families_that_run_row_by_row_or_with_masks_of_their_own(make: Any) -> None:
    pair = families.pair_of(make(0), make(1))
    texts = [prompt_ids(3, 5), prompt_ids(4, 100)]
    expected = [families.greedy(pair.small, ids, TOKENS) for ids in texts]
    assert answers(pair, texts) == expected
    found = probe(pair.small)
    assert found.problems == ()
    assert found.cohort == (make is families.doge)
    if HAS_CPU_LAYERS:
        assert found.serving.direct == (make is not families.doge)


def answers(pair: Any, texts: list[list[int]], tokens: int = TOKENS) -> list[list[int]]:
    """Those of the small model to prompts of ids, in one cohort."""
    rows = iter(texts)
    object.__setattr__(pair, "encode", lambda prompt, *more: next(rows))
    outputs = Router(pair, AlwaysSmall()).cohort(["as given"] * len(texts), max_new_tokens=tokens)
    object.__delattr__(pair, "encode")
    return [output.token_ids for output in outputs]


def test_a_model_without_a_cache_is_refused_by_name() -> None:
    with pytest.raises(SteerError, match=r"the small model '.*' keeps no KV cache"):
        families.pair_of(families.no_cache(0), families.no_cache(1))


def test_a_model_that_sees_what_is_to_come_is_refused_by_name() -> None:
    model = families.causal("bert", 0, is_decoder=False)
    with pytest.raises(SteerError, match=r"the large model '.*' .*no causal language model"):
        families.pair_of(make_model("llama", 0), model)


class Forgetful(nn.Module):
    """A layer that adds what it has seen in earlier passes, which no cache can take back."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen = 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen += hidden.shape[1]
        out: torch.Tensor = self.inner(hidden)
        return out + 0.1 * self.seen


def test_a_model_with_a_state_of_its_own_is_refused_by_name() -> None:
    model = make_model("llama", 0)
    model.model.layers[0].mlp = Forgetful(model.model.layers[0].mlp)
    with pytest.raises(SteerError, match="when it reads the same text again"):
        families.pair_of(model, make_model("llama", 1))


def test_logits_that_are_nan_are_told_where_they_are_read() -> None:
    model = make_model("llama", 0)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert probe(model).problems == ()


@families.needs_transformers_5
def test_what_scaled_rope_does_is_found_out() -> None:
    assert probe(families.longrope(0, 64)).serving.scaled == Scaled(64, anew=True)
    assert probe(families.longrope(0, 64, "qwen2")).serving.scaled == Scaled(64)
    assert probe(families.stretched(0, "dynamic")).serving.scaled == Scaled(64, grows=True)
    for kind in ("yarn", "linear"):
        assert probe(families.stretched(0, kind)).serving.scaled is None
