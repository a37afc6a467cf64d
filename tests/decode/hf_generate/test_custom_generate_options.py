"""The side door: settings of the router, and what is refused."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import (
    AlwaysSmall,
    FirstTokenEntropy,
    Pair,
    Router,
    Steer,
    SteerError,
)
from steer_decode.core.boundary import StepBoundary
from steer_decode.decode.hf_generate.request import pad_id
from support.side_door import LIMIT, ONE, PAIR, THREE, batch, door, even_pair
from support.tiny import make_pair, prompt_ids, save_pair
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
)
from transformers.generation.streamers import BaseStreamer


class Never(BaseStreamer):
    def put(self, value: torch.Tensor) -> None:
        raise AssertionError("nothing was to be streamed")

    def end(self) -> None: ...


def test_settings_in_generation_config_json(tmp_path: Path) -> None:
    small, _ = save_pair(tmp_path)
    pair = make_pair("llama", 0)
    inputs = {**ONE, "return_dict_in_generate": True}
    settings = {"router": "first-token:threshold=0.7", "max_step_tokens": 5}
    GenerationConfig(steer=settings, eos_token_id=1, pad_token_id=1).save_pretrained(small)
    loaded = Pair(AutoModelForCausalLM.from_pretrained(small), pair.large, pair.tokenizer)
    boundary = StepBoundary(pair.tokenizer, pair.vocab_size, max_tokens=5)
    expected = Router(make_pair("llama", 0), FirstTokenEntropy(0.7), boundary)
    want = expected.pair.small.generate(**inputs, custom_generate=expected, max_new_tokens=LIMIT)
    own = Router(loaded)  # which is given no policy of the user's
    for options in ({}, {"generation_config": GenerationConfig(max_new_tokens=LIMIT)}):
        options |= {"custom_generate": own, "max_new_tokens": LIMIT}
        got = loaded.small.generate(**inputs, **options)
        assert torch.equal(got.sequences, want.sequences)
        assert got.steer[0].trace.policy == "first-token:threshold=0.7:signal=entropy"
        assert max(len(s.token_ids) for s in got.steer[0].trace.steps) == 5
    given = GenerationConfig(steer={"router": "large"}, max_new_tokens=LIMIT)
    got = door(AlwaysSmall(), inputs, loaded, generation_config=given, max_new_tokens=LIMIT)
    assert got.steer[0].trace.policy == "large"
    # An argument of the call stands for the whole section.
    assert door(AlwaysSmall(), inputs, loaded, steer={}).steer[0].trace.policy == "small"


def test_a_setting_leaves_the_rest_of_the_router_alone() -> None:
    pair = make_pair("llama", 0)
    router = Router(pair, AlwaysSmall(), StepBoundary(pair.tokenizer, pair.vocab_size, ",", 7))
    options = {"custom_generate": router, "max_new_tokens": LIMIT, "return_dict_in_generate": True}
    out = pair.small.generate(**ONE, **options, steer={"max_step_tokens": 4})
    steps = out.steer[0].trace.steps
    assert {len(s.token_ids) for s in steps[:-1]} <= {1, 2, 3, 4}
    assert any("," in s.text and len(s.token_ids) < 4 for s in steps) or all(
        len(s.token_ids) == 4 for s in steps[:-1]
    )
    assert router.boundary.settings == (",", 7)
    assert str(router.policy) == "small"


@pytest.mark.parametrize(
    ("steer", "message"),
    [
        ({"routr": "small", "gamma": 1}, r"steer has no setting 'routr', 'gamma': it takes router"),
        ("small", r"steer must be a dict with settings from router, .*, got 'small'"),
        ({"router": "best"}, r"steer: router 'best': unknown router 'best': choose from small"),
        ({"router": "random:share=2"}, r"share must lie in \[0, 1\], got 2"),
        ({"router": "steer"}, "needs either a calibration"),
        ({"router": 3}, "steer: router must be a text, got 3"),
        ({"delimiter": ""}, "steer: delimiter must be a text, got ''"),
        ({"max_step_tokens": 0}, "max_step_tokens must be a whole number from 1 on, got 0"),
        ({"max_step_tokens": True}, "max_step_tokens must be a whole number from 1 on, got True"),
        ({"seed": -1}, "seed must be a whole number from 0 on, got -1"),
    ],
)
def test_bad_settings_are_named(steer: Any, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        door(AlwaysSmall(), ONE, steer=steer, steer_streamer=Never())


def masked(*mask: int) -> dict[str, torch.Tensor]:
    n = len(mask)
    return {"input_ids": torch.tensor([prompt_ids(0, n)]), "attention_mask": torch.tensor([mask])}


def grown_cache() -> DynamicCache:
    with torch.no_grad():
        out = PAIR.small(ONE["input_ids"][:, :-1], use_cache=True)
    return getattr(out, "past_key_values", None) or out.cache


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (masked(0, 1, 0, 1), "row 0 has a hole: a prompt must be one piece"),
        (masked(1, 1, 1, 0), r"row 0 has pads on the right: .*padding_side='left'"),
        (masked(0, 0, 0, 0), "row 0: prompt has no tokens"),
        ({"input_ids": torch.full((1, 600), 5)}, "row 0: prompt is 600 tokens long"),
        ({**ONE, "num_beams": 2}, "options ask for beam_search"),
        ({**ONE, "num_beams": 2, "do_sample": True}, "options ask for beam_sample"),
        ({**ONE, "prompt_lookup_num_tokens": 2}, "options ask for assisted_generation"),
        ({**ONE, "output_attentions": True}, "output_attentions=True is not supported"),
        ({**ONE, "output_hidden_states": True}, "output_hidden_states=True is not supported"),
        ({**ONE, "guidance_scale": 1.5}, "guidance_scale is not supported in routed decoding"),
        ({**ONE, "cache_implementation": "static"}, "cache_implementation='static' is not"),
        ({**ONE, "past_key_values": grown_cache()}, "is not supported: a router keeps caches"),
        ({**ONE, "position_ids": torch.arange(3, 15)[None]}, "position_ids of row 0 do not count"),
        (
            {"inputs_embeds": PAIR.small.get_input_embeddings()(ONE["input_ids"]).detach()},
            "inputs_embeds is not supported in routed decoding: give input_ids only",
        ),
        ({**ONE, "token_type_ids": torch.ones(1, 12)}, "token_type_ids is not supported"),
        ({**THREE, "steer_streamer": Never()}, "steer_streamer takes one row, got 3"),
    ],
    ids=lambda value: None if isinstance(value, dict) else re.sub(r"\W+", "-", value)[:40],
)
def test_what_cannot_be_honoured_is_refused(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(SteerError, match=message):
        door(AlwaysSmall(), inputs)


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    inputs = {"input_ids": torch.tensor([[5, 38]])}
    with pytest.raises(SteerError, match="row 0: prompt holds token id 38"):
        door(AlwaysSmall(), inputs, make_pair("llama", 0))


def test_rows_that_differ_in_length_need_a_pad() -> None:
    pair = even_pair()
    pair.tokenizer.pad_token = pair.tokenizer.eos_token = None
    config = GenerationConfig()
    routing = Router(pair, AlwaysSmall()).routing
    endless = replace(routing, ends=frozenset())
    assert pad_id(endless, config, 1) == 0
    with pytest.raises(SteerError, match="pad_token_id is not set, and 2 answers may differ"):
        pad_id(endless, config, 2)
    assert pad_id(replace(routing, ends=frozenset([7, 5])), config, 2) == 5


def test_only_the_small_model_opens_the_door() -> None:
    router = Router(PAIR, AlwaysSmall())
    with pytest.raises(SteerError, match="by its large model: call generate of router"):
        PAIR.large.generate(**ONE, custom_generate=router)
    with pytest.raises(SteerError, match="by a model that is not in it, 'LlamaForCausalLM'"):
        even_pair().small.generate(**ONE, custom_generate=router)


def test_misspelt_arguments_are_refused_by_generate() -> None:
    with pytest.raises(ValueError, match="steer_steamer"):
        door(AlwaysSmall(), ONE, steer_steamer=Never())


def test_one_router_serves_several_threads() -> None:
    pair = make_pair("llama", 0)
    router = Router(pair, Steer(threshold=9.0))
    inputs = [batch(8 + i) for i in range(4)]
    options = {"custom_generate": router, "max_new_tokens": 20}
    alone = [pair.small.generate(**i, **options).tolist() for i in inputs]
    together: list[Any] = [None] * 4

    def work(i: int) -> None:
        together[i] = pair.small.generate(**inputs[i], **options).tolist()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-39, 1e-45, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    options = {"do_sample": True, "temperature": temperature, "top_k": 0}
    greedy = door(AlwaysSmall(), ONE, max_new_tokens=LIMIT)
    assert torch.equal(door(AlwaysSmall(), ONE, max_new_tokens=LIMIT, **options), greedy)


@pytest.mark.parametrize("temperature", [1e38, 1e39, 1e300])
def test_a_temperature_without_bound_draws_alike_what_is_not_masked(temperature: float) -> None:
    """The head has rows beyond the vocabulary, which are masked and stay so."""
    pair = make_pair("llama")
    assert pair.small.config.vocab_size > pair.vocab_size
    torch.manual_seed(0)
    options = {"do_sample": True, "temperature": temperature, "top_k": 0, "eos_token_id": 39}
    ids = door(AlwaysSmall(), ONE, pair, max_new_tokens=120, **options)[0, -120:].tolist()
    assert len(set(ids)) >= 25
    assert max(ids) < pair.vocab_size


def test_an_infinite_temperature_is_refused() -> None:
    with pytest.raises(SteerError, match="temperature must be a finite number, got inf"):
        door(AlwaysSmall(), ONE, do_sample=True, temperature=float("inf"))
