"""Passes whose linear layers multiply by decode_linear: which, and what comes of it."""

from __future__ import annotations

import pytest
import torch
from steer_decode import Router
from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import Transcript
from steer_decode.engines.hf.cpu import linear
from steer_decode.engines.hf.lane import Lane
from steer_decode.policies import FirstTokenEntropy
from support import reference_loop as ref
from support.backends import needs_cpu_layers
from support.products import lane_of, linears
from support.tiny import FAMILIES, make_model, make_pair, prompt_ids, prompt_text
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

ALL = (*FAMILIES, "olmo3")
pytestmark = needs_cpu_layers


@pytest.mark.parametrize("family", ALL)
def test_every_linear_layer_of_short_and_long_passes(family: str, products: list) -> None:
    pair = make_pair(family)
    products.clear()  # of the probe
    lane = lane_of(pair.small)
    text = lane.transcript()
    for count in (0, 1, 16, 90):  # after the prompt
        for token in prompt_ids(count, count):
            text.append(token, "large")
        logits = lane.catch_up()
        assert len(products) == len(linears(pair.small))
        products.clear()
        expected = ref.next_logits(pair, "small", text.ids)
        actual = logits[0, : pair.vocab_size].double()
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


def test_of_a_long_pass_in_bfloat16_the_head_alone(products: list) -> None:
    model = make_model("llama", 0).to(torch.bfloat16)
    lane = lane_of(model, linear.MOST_TOKENS + 1)
    lane.catch_up()
    assert [shape[1] for shape in products] == [1]
    products.clear()
    lane = lane_of(model, linear.MOST_TOKENS)
    lane.catch_up()
    assert len(products) == len(linears(model))


@pytest.mark.few(1)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox"])
def test_routed_greedy_output_is_what_it_was(family: str, products: list) -> None:
    pair = make_pair(family)
    prompts = [prompt_text(seed, 12) for seed in range(3)]
    router = Router(pair, FirstTokenEntropy(1.5))
    served = [out.token_ids for out in router.cohort(prompts, max_new_tokens=40)]
    assert products
    alone = [router.generate(prompt, max_new_tokens=40).token_ids for prompt in prompts]
    linear.LEAST_WEIGHTS = 2**40
    products.clear()
    plain = [out.token_ids for out in router.cohort(prompts, max_new_tokens=40)]
    assert served == alone == plain
    assert not products


@torch.inference_mode()
def test_a_token_has_the_same_logits_beside_others_bit_for_bit(products: list) -> None:
    """Of products; attention and norms see to theirs."""
    model = make_model("llama", 0)
    text = [Transcript(prompt_ids(seed, 20)) for seed in range(5)]
    together = Lane(model, ModelShape.of(model), text)
    together.catch_up(range(5))
    alone = lane_of(model)
    alone.catch_up()
    for transcript in (*text, alone.transcript()):
        transcript.append(7, "small")
    products.clear()
    for row, logits in enumerate(together.catch_up(range(5))):
        lane = Lane(model, ModelShape.of(model), [text[row]])
        lane.part = 19
        lane.catch_up()
        torch.testing.assert_close(lane.catch_up()[0], logits, atol=1e-5, rtol=1e-5)


def test_operations_are_counted_as_those_of_torchs_products(products: list) -> None:
    model = make_model("llama", 0)
    model.set_attn_implementation("eager")
    counts = []
    for least in (1, 2**40):
        linear.LEAST_WEIGHTS = least
        lane = lane_of(model, 9)
        with FlopCounterMode(display=False) as counter:
            lane.catch_up()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    assert not products


def test_weights_that_change_between_passes_are_those_that_count(products: list) -> None:
    model = make_model("llama", 0)
    lane = lane_of(model, 9)
    before = lane.catch_up()
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(2.0 * head.weight.detach())
    lane.roll_back(0, 8)
    torch.testing.assert_close(lane.catch_up(), 2.0 * before)
    assert products
