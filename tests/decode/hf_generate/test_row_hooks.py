"""The side door: streamers, stop strings, stopping criteria and ends of an answer."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from steer_decode import (
    AlwaysLarge,
    AlwaysSmall,
    BothSides,
    FirstTokenEntropy,
    Policy,
    QueryCascade,
    RewardGuided,
    Steer,
    SteerError,
    Step,
)
from steer_decode.decode.hf_generate.hooks import StopText
from support.side_door import ONE, PAIR, THREE, door, even_pair
from support.tiny import make_pair, prompt_ids
from support.token_kinds import byte_fallback, byte_level
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)
from transformers.generation.streamers import BaseStreamer


class Kept(BaseStreamer):
    """Remembers what it is given, and how much of it came before each end of a step."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        assert not self.ended
        assert value.shape in ((1, 12), (1,))
        self.ids += value.flatten().tolist()

    def end(self) -> None:
        self.ended += 1


class Watch(StoppingCriteria):
    """Notes how far a streamer is at every token."""

    def __init__(self, streamer: Kept) -> None:
        self.streamer = streamer
        self.behind: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.behind.append(input_ids.shape[1] - len(self.streamer.ids))
        return torch.zeros(1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("policy", "at_once"),
    [
        (Steer(threshold=9.0), False),
        (Steer(threshold=1e9), False),
        (RewardGuided(0.9), False),
        (QueryCascade(1e9), False),
        (BothSides(sure=1.0), False),
        (FirstTokenEntropy(0.7), True),
        (AlwaysSmall(), True),
    ],
)
@pytest.mark.few(3)
def test_a_streamer_is_given_what_stays(policy: Policy, at_once: bool) -> None:
    pair, streamer = make_pair("llama", 0), Kept()
    watch = Watch(streamer)
    out = door(
        policy, ONE, pair, steer_streamer=streamer, stopping_criteria=StoppingCriteriaList([watch])
    )
    assert streamer.ids == out[0].tolist()
    assert streamer.ended == 1
    assert (max(watch.behind) == 1) == at_once


def test_text_is_streamed_to_another_thread() -> None:
    pair = make_pair("llama", 0)
    streamer = TextIteratorStreamer(pair.tokenizer, skip_prompt=True, timeout=600)
    results: list[Any] = []
    policy = Steer(threshold=9.0)
    thread = threading.Thread(
        target=lambda: results.append(
            door(policy, ONE, pair, steer_streamer=streamer, return_dict_in_generate=True)
        )
    )
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == pair.tokenizer.decode(results[0].steer[0].token_ids)


class Fails(Policy):
    def after_step(self, step: Step) -> Any:
        raise RuntimeError("no idea")


def test_a_streamer_is_ended_by_an_error_too() -> None:
    streamer = Kept()
    with pytest.raises(SteerError, match="no idea"):
        door(Fails(), ONE, make_pair("llama", 0), steer_streamer=streamer)
    assert streamer.ended == 1


def test_stop_strings_end_an_answer_at_the_token_that_completes_one() -> None:
    texts = ["w3w", "w7", ",w1", "\n\nw5", "d>"]
    decode = PAIR.tokenizer.decode
    stopped = 0
    for seed in range(12):
        prompt = prompt_ids(seed)
        inputs = {"input_ids": torch.tensor([prompt])}
        whole = door(AlwaysSmall(), inputs)[0].tolist()
        expected = whole
        for n in range(13, len(whole)):
            before = len(decode(whole[: n - 1]))
            if any(text in decode(whole[:n])[max(0, before + 1 - len(text)) :] for text in texts):
                expected = whole[:n]
                break
        stopped += len(expected) < len(whole)
        assert door(AlwaysSmall(), inputs, stop_strings=texts)[0].tolist() == expected
    assert stopped > 3
    with pytest.raises(SteerError, match=r"stop_strings must be a text or a list .* got \[\]"):
        door(AlwaysSmall(), ONE, stop_strings=[])


def test_stop_strings_in_a_config_are_beyond_our_reach() -> None:
    """What docs/generate.md says: ``generate`` raises before it calls anything."""
    config = GenerationConfig(stop_strings=["w7"])
    with pytest.raises(ValueError, match="could not locate a tokenizer"):
        door(AlwaysSmall(), ONE, generation_config=config, tokenizer=PAIR.tokenizer)


def test_stop_strings_in_bytes_that_make_no_character_alone() -> None:
    """A tokenizer of bytes, as those of GPT-2, Llama 3 and Qwen fall back to."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    for text, stop in (("caf\u00e9 au", "\u00e9"), ("a \u20ac b", "\u20ac b"), ("abc", "bc")):
        ids = fast(text)["input_ids"]
        criterion = StopText(fast, [stop])
        found = [bool(criterion(torch.tensor([ids[:n]]), None)) for n in range(1, len(ids) + 1)]
        first = len(fast(text[: text.index(stop) + len(stop)])["input_ids"])
        assert found == [n == first for n in range(1, len(ids) + 1)]
    only = AtLength(3), StopText(fast, ["b"])
    assert StoppingCriteriaList(only)(torch.tensor([fast("ab")["input_ids"]]), None).tolist() == [
        True
    ]


class AtLength(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([input_ids.shape[1] >= self.length] * len(input_ids))


def test_stopping_criteria_see_the_pads_and_end_an_answer() -> None:
    criteria = StoppingCriteriaList([AtLength(17)])
    out = door(Steer(threshold=9.0), THREE, stopping_criteria=criteria, min_new_tokens=9)
    assert out.shape == (3, 17)
    assert door(AlwaysSmall(), ONE, max_time=0.0).shape[1] == 13


def test_an_end_of_the_call_closes_the_step_it_stands_in() -> None:
    pair = make_pair("llama", 0)
    first = door(AlwaysSmall(), ONE, pair)[0, 12 + 2]
    out = door(
        Steer(threshold=1e9), ONE, pair, eos_token_id=int(first), return_dict_in_generate=True
    )
    steps = out.steer[0].trace.steps
    assert steps[0].token_ids[-1] == first
    assert steps[0].discarded
    assert steps[0].closed


def test_the_large_model_may_end_with_an_id_of_its_own() -> None:
    pair = even_pair("qwen2", 2)
    alone = door(AlwaysLarge(), ONE, pair, return_dict_in_generate=True).steer[0].token_ids
    pair = even_pair("qwen2", 2)
    pair.large.generation_config.eos_token_id = [1, alone[5]]
    got = door(AlwaysLarge(), ONE, pair)[0, 12:].tolist()
    assert got == alone[: alone.index(alone[5]) + 1]
    held = door(AlwaysLarge(), ONE, pair, min_new_tokens=20)[0, 12:].tolist()
    assert alone[5] not in held[:20]
    # Named in the call, the ids of the call are all that counts.
    assert door(AlwaysLarge(), ONE, pair, eos_token_id=[1, 0])[0, 12:].tolist() == alone


def test_scores_of_a_mended_step_are_those_of_who_wrote_each_token() -> None:
    pair = make_pair("llama", 0)
    policy = BothSides(sure=1.0, keep=-3.5)
    options = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    out = door(policy, ONE, pair, **options)
    steps = out.steer[0].trace.kept
    assert any(step.others for step in steps)
    ids = out.sequences[:, : ONE["input_ids"].shape[1]]
    for i, writer in enumerate(w for step in steps for w in step.writers):
        with torch.no_grad():
            logits = pair.model(writer)(ids, use_cache=False).logits[:, -1, : pair.vocab_size]
        for kept in (out.scores[i], out.logits[i]):
            torch.testing.assert_close(kept[:, : pair.vocab_size], logits, atol=1e-4, rtol=1e-4)
        ids = out.sequences[:, : ids.shape[1] + 1]


@pytest.mark.parametrize("make", [byte_fallback, byte_level])
@pytest.mark.parametrize("stop", ["。", "答。", "\n\n", "é"])
def test_a_stop_text_in_bytes_is_found(make: Any, stop: str) -> None:
    """Wherever within a character the tail begins that is looked at."""
    tokenizer = make()
    ids = tokenizer(f"答答答é答答{stop}", add_special_tokens=False)["input_ids"]
    found = StopText(tokenizer, [stop])
    ends = [bool(found(torch.tensor([ids[: i + 1]]), None)) for i in range(len(ids))]
    assert ends[-1]
    assert sum(ends) == (2 if stop == "é" else 1)
