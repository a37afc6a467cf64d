"""The side door: ``small.generate(custom_generate=router)`` against ``generate`` itself."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import (
    AlwaysLarge,
    AlwaysSmall,
    FirstTokenEntropy,
    Policy,
    RandomShare,
    Router,
    Steer,
)
from steer_decode.decode.hf_generate.custom_generate import RoutedGenerateOutput
from support.side_door import LIMIT, ONE, PAIR, THREE, WORDS, door, even_pair, plain
from support.tiny import VOCABULARY, make_pair
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    set_seed,
)

ROOT = Path(__file__).parents[3]
QUESTION = "Compute 13 -4 +7 -9 +4 -3 ?"  # of the README

GREEDY: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": [[5], [7, 8]]},
    {"min_new_tokens": 30},
    {"min_length": 30},
    {"eos_token_id": [4, 9]},
    {"eos_token_id": 9, "pad_token_id": 3},
    {"max_new_tokens": None, "max_length": 25},
    {"forced_eos_token_id": 1, "max_new_tokens": 6},
    {"suppress_tokens": [3, 4], "begin_suppress_tokens": [10, 11, 12]},
    {"sequence_bias": [[[6], 2.0]]},
    {"exponential_decay_length_penalty": (5, 1.5)},
    {"encoder_repetition_penalty": 1.5},
    {"encoder_no_repeat_ngram_size": 2},
    {"renormalize_logits": True, "repetition_penalty": 1.2},
    {"prefix_allowed_tokens_fn": lambda row, ids: [1, 2 + row, 10 + row, 20 + row, 30]},
]


@pytest.mark.spread
@pytest.mark.parametrize("policy", [AlwaysSmall(), AlwaysLarge()], ids=lambda p: p.name)
@pytest.mark.parametrize("inputs", [ONE, THREE], ids=["one", "three"])
@pytest.mark.parametrize("options", GREEDY, ids=lambda o: ",".join(o) or "defaults")
@pytest.mark.few(6)
def test_one_model_alone_equals_its_own_generate(
    options: dict[str, Any], inputs: dict[str, torch.Tensor], policy: Policy
) -> None:
    model = PAIR.small if policy.name == "small" else PAIR.large
    expected = plain(model, inputs, **options)
    got = door(policy, inputs, **options)
    assert got.dtype == expected.dtype
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("family", ["qwen2", "gpt_neox", "gemma3_text"])
@pytest.mark.few(1)
def test_it_does_so_for_other_architectures(family: str) -> None:
    pair = even_pair(family, 1)
    options = {"repetition_penalty": 1.1, "eos_token_id": [4, 9]}
    for policy, model in ((AlwaysSmall(), pair.small), (AlwaysLarge(), pair.large)):
        expected = plain(model, THREE, **options)
        assert door(policy, THREE, pair, **options).tolist() == expected.tolist()


def test_rows_do_end_apart() -> None:
    """Otherwise the comparisons above would say little about pads on the right."""
    rows = plain(PAIR.small, THREE, eos_token_id=9, pad_token_id=3).tolist()
    assert len({row.index(9, 12) for row in rows if 9 in row[12:]}) > 1


def test_defaults_of_generate_hold() -> None:
    """Neither length nor mask is given: 20 tokens, and nothing is a pad."""
    ids = {"input_ids": ONE["input_ids"]}
    got = door(AlwaysSmall(), ids, max_new_tokens=None)
    assert got.tolist() == plain(PAIR.small, ids, max_new_tokens=None).tolist()


@pytest.mark.parametrize(
    "policy",
    [Steer(threshold=9.0), FirstTokenEntropy(0.7), RandomShare(0.5)],
    ids=lambda p: p.name,
)
@pytest.mark.few(1)
def test_a_routed_answer_is_that_of_the_front_door(policy: Policy) -> None:
    pair = make_pair("qwen3", 0)
    prompts = ["w1 w2.\n\nw3", "w4,w5 w6", "w7"]
    inputs = pair.tokenizer(
        prompts,
        return_tensors="pt",
        padding=True,
        padding_side="left",
        return_token_type_ids=True,
    )
    out = door(policy, inputs, pair, return_dict_in_generate=True)
    front = Router(pair, policy).cohort(prompts, max_new_tokens=LIMIT)
    assert isinstance(out, RoutedGenerateOutput)
    assert sum(o.cost.hand_overs for o in front) > 0
    length = inputs["input_ids"].shape[1]
    for ids, ours, theirs in zip(out.sequences.tolist(), out.steer, front, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.trace.steps[0].values == theirs.trace.steps[0].values
        assert [s.writer for s in ours.trace.steps] == [s.writer for s in theirs.trace.steps]
        new = ids[length:]
        assert new[: len(ours.token_ids)] == ours.token_ids
        assert set(new[len(ours.token_ids) :]) <= {pair.tokenizer.pad_token_id}


class Promote(LogitsProcessor):
    """Makes ``token`` the likeliest at every ``n``-th length."""

    def __init__(self, token: int, n: int = 4) -> None:
        self.token, self.n = token, n
        self.seen: list[list[int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append(input_ids[0].tolist())
        if input_ids.shape[1] % self.n == 0:
            scores[:, self.token] += 1000.0
        return scores


def test_confidence_is_read_before_the_processors() -> None:
    pair = make_pair("llama", 0)
    promote = Promote(VOCABULARY.index(".\n\n"))
    out = door(
        Steer(threshold=9.0),
        ONE,
        pair,
        logits_processor=LogitsProcessorList([promote]),
        return_dict_in_generate=True,
    )
    (answer,) = out.steer
    assert answer.cost.hand_overs > 0
    assert answer.token_ids.count(promote.token) >= LIMIT // 4 - 1
    ids = ONE["input_ids"][0].tolist()
    for step in answer.trace.kept:
        for token, value in zip(step.token_ids, step.values, strict=True):
            with torch.no_grad():
                logits = pair.model(step.writer)(torch.tensor([ids])).logits[0, -1, :WORDS]
            assert value == pytest.approx(float(logits.max()), abs=1e-3)
            ids.append(token)


def test_a_processor_sees_a_row_as_generate_shows_it() -> None:
    promote = Promote(5, 10**6)
    door(AlwaysSmall(), THREE, logits_processor=LogitsProcessorList([promote]), max_new_tokens=3)
    assert sorted(seen[:12] for seen in promote.seen if len(seen) == 12) == sorted(
        THREE["input_ids"].tolist()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(AlwaysSmall(), id="small"),
        pytest.param(AlwaysLarge(), id="large", marks=pytest.mark.slow),
    ],
)
def test_warped_sampling_has_the_right_distribution(policy: Policy) -> None:
    n = 2000
    options: dict[str, Any] = {
        "do_sample": True,
        "temperature": 1.7,
        "top_k": 9,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "max_new_tokens": 1,
    }
    model = PAIR.small if policy.name == "small" else PAIR.large
    scores = plain(model, ONE, **options, return_dict_in_generate=True, output_scores=True).scores
    expected = scores[0][0].softmax(-1)
    drawn = Counter(door(policy, ONE, **options, num_return_sequences=n)[:, -1].tolist())
    likely = [i for i in range(WORDS) if expected[i] > 0]
    assert set(drawn) <= set(likely)
    assert len(likely) >= 3
    chi2 = sum((drawn[i] - n * float(expected[i])) ** 2 / (n * float(expected[i])) for i in likely)
    assert chi2 < 30  # 8 degrees of freedom at most; p = 2e-4


def test_sampling_follows_the_global_seed() -> None:
    policy, options = RandomShare(0.5), {"do_sample": True, "num_return_sequences": 3}

    def draw(seed: int) -> list[Any]:
        set_seed(seed)
        return [door(policy, ONE, **options).tolist() for _ in range(2)]

    first = draw(3)
    assert draw(3) == first
    assert draw(4) != first
    assert first[0] != first[1]
    assert first[0][0] != first[0][1]


def test_greedy_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    door(RandomShare(0.5), ONE)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_seed_of_its_own_samples_as_the_front_door_does() -> None:
    text = "w1 w2.\n\nw3"
    inputs = {"input_ids": torch.tensor([PAIR.tokenizer(text)["input_ids"]])}
    got = door(RandomShare(0.5), inputs, do_sample=True, top_k=0, steer={"seed": 7})
    front = Router(PAIR, RandomShare(0.5)).generate(
        text, max_new_tokens=LIMIT, temperature=1.0, seed=7
    )
    assert got[0, inputs["input_ids"].shape[1] :].tolist() == front.token_ids


def test_scores_and_logits_are_those_of_generate() -> None:
    options = {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "no_repeat_ngram_size": 2,
    }
    got, expected = door(AlwaysSmall(), THREE, **options), plain(PAIR.small, THREE, **options)
    assert torch.equal(got.sequences, expected.sequences)
    new = got.sequences[:, 12:]
    for kind in ("scores", "logits"):
        ours, theirs = torch.stack(got[kind]), torch.stack(expected[kind])
        assert ours.shape == theirs.shape
        for row, answer in enumerate(got.steer):
            n = len(answer.token_ids)
            torch.testing.assert_close(ours[:n, row], theirs[:n, row], atol=1e-4, rtol=1e-4)
            assert not ours[n:, row].any()
    sure = PAIR.small.compute_transition_scores(got.sequences, got.scores, normalize_logits=True)
    assert sure.shape == new.shape


def test_scores_after_a_step_taken_back_are_those_of_what_stayed() -> None:
    pair = make_pair("llama", 0)
    out = door(Steer(threshold=1e9), ONE, pair, return_dict_in_generate=True, output_logits=True)
    assert out.scores is None
    assert out.steer[0].cost.discarded_tokens > 0
    assert out.logits[0].shape == (1, pair.small.config.vocab_size)
    assert [int(row.argmax()) for row in out.logits] == out.steer[0].token_ids


def test_the_example_of_the_documents_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "generate.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, str(page), "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert names["out"].steer[0].token_ids == names["router"].generate(QUESTION).token_ids
    assert lines[-1].endswith(str(names["out"].steer[0].cost.large_token_share))
