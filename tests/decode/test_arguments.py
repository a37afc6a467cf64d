"""What a caller hands to the loop: taken as it is meant, or refused by name before a model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from steer_decode import (
    AlwaysSmall,
    FirstTokenEntropy,
    Pair,
    Percentile,
    RandomShare,
    Router,
    Session,
    Signal,
    SteerError,
)
from support.tiny import make_model, make_pair, make_tokenizer, prompt_text

PAIR = make_pair("llama", 0)
PROMPT = prompt_text(3)
ROUTER = Router(PAIR, RandomShare(0.5))


def texts(**options: Any) -> list[str]:
    """Of a list and of a cohort, which are the same answers."""
    few = {"max_new_tokens": 12, "temperature": 0.7} | options
    one = [output.text for output in ROUTER.generate([PROMPT, PROMPT], **few)]
    assert one == [output.text for output in ROUTER.cohort([PROMPT, PROMPT], **few)]
    return one


def test_numbers_of_numpy_are_numbers() -> None:
    plain = texts(seed=3, top_k=20, top_p=0.75)
    of_numpy = texts(
        seed=np.int64(3),
        top_k=np.int32(20),
        top_p=np.float64(0.75),
        temperature=np.float64(0.7),
        max_new_tokens=np.uint8(12),
    )
    assert of_numpy == plain
    options = {"max_new_tokens": 12, "temperature": 0.7, "top_k": 20, "top_p": 0.75}
    for seeds in ([3, 4], (3, 4), np.array([3, 4])):
        outputs = ROUTER.cohort([PROMPT, PROMPT], seed=seeds, **options)  # type: ignore[arg-type]
        assert [output.text for output in outputs] == plain
    assert texts(temperature=np.float32(0.5)) == texts(temperature=0.5)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("max_new_tokens", 0, "max_new_tokens must be at least 1, got 0"),
        ("max_new_tokens", 2.5, "max_new_tokens must be a whole number, got 2.5"),
        ("max_new_tokens", "5", "max_new_tokens must be a whole number, got '5'"),
        ("max_new_tokens", None, "max_new_tokens must be a whole number, got None"),
        ("temperature", "hot", "temperature must be a number, got 'hot'"),
        ("temperature", True, "temperature must be a number, got True"),
        ("temperature", 10**400, r"temperature must be a number below 1e308, got 100000000\.\.\."),
        ("temperature", float("nan"), "temperature must be 0 .* got nan"),
        ("top_p", None, "top_p must be a number, got None"),
        ("min_p", "a", "min_p must be a number, got 'a'"),
        ("top_k", 1.5, "top_k must be a whole number, got 1.5"),
        ("seed", None, "seed must be a whole number, got None"),
        ("seed", 1.5, "seed must be a whole number, got 1.5"),
        ("seed", "a", "seed must be"),
    ],
)
def test_numbers_that_are_none_are_named(option: str, value: object, message: str) -> None:
    for prompts in (PROMPT, [PROMPT, PROMPT]):
        with pytest.raises(SteerError, match=message):
            ROUTER.generate(prompts, **{option: value})
    with pytest.raises(SteerError, match="seed must be" if option == "seed" else message):
        ROUTER.cohort([PROMPT, PROMPT], **{option: value})


def test_a_top_k_beyond_any_vocabulary_cuts_nothing() -> None:
    assert texts(top_k=2**70) == texts(top_k=0)


def test_prompts_may_come_from_an_iterator() -> None:
    expected = texts(seed=3)
    options = {"max_new_tokens": 12, "temperature": 0.7, "seed": 3}
    for answer in (ROUTER.generate, ROUTER.cohort):
        outputs = answer(iter([PROMPT, PROMPT]), **options)  # type: ignore[operator]
        assert [output.text for output in outputs] == expected


@pytest.mark.parametrize(
    "prompts", [None, 5, b"w1", {"role": "user", "content": "w1"}], ids=lambda p: type(p).__name__
)
def test_what_is_no_list_of_prompts_is_refused(prompts: Any) -> None:
    for answer in (ROUTER.generate, ROUTER.cohort):
        with pytest.raises(SteerError, match="prompts must be a list of texts or of messages, got"):
            answer(prompts)


def test_a_text_is_no_cohort_of_its_letters() -> None:
    with pytest.raises(SteerError, match=r"prompts must be a list .* got str"):
        ROUTER.cohort(PROMPT)


@pytest.mark.parametrize("messages", [[""], [["w1"]], [{"role": "user"}, "w1"], 5, iter([])])
def test_messages_of_another_form_are_refused(messages: Any) -> None:
    pair = make_pair("llama", 0)
    pair.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(SteerError, match=r"messages must be a list of .*role.*content"):
        Session(Router(pair, AlwaysSmall())).stream(messages)


def test_a_template_that_fails_is_an_error_of_the_messages() -> None:
    pair = make_pair("llama", 0)
    pair.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(SteerError, match=r"the chat template cannot read .* roles must alternate"):
        Router(pair, AlwaysSmall()).generate([{"role": "user", "content": "w1"}])


@pytest.mark.parametrize("policy", [None, "first-token", FirstTokenEntropy])
def test_what_is_no_policy_is_refused(policy: Any) -> None:
    with pytest.raises(SteerError, match="policy must be a router such as FirstTokenEntropy"):
        Router(PAIR, policy)


def test_turns_are_whole_numbers() -> None:
    with pytest.raises(SteerError, match=r"ahead must be a whole number, got 1\.5"):
        Router(PAIR, AlwaysSmall(), ahead=1.5)  # type: ignore[arg-type]


def test_a_signal_that_is_not_a_number_is_named_with_its_place() -> None:
    signal = Signal("broken", lambda stats: stats.max_logit * float("nan"))
    cohort = Router(PAIR, Percentile(signal=signal, share=0.3))
    with pytest.raises(SteerError, match="signal 'broken' is NaN at token 0 of step 0"):
        cohort.cohort([PROMPT] * 3, max_new_tokens=12)
    look = FirstTokenEntropy(0.5)
    look.signal = signal
    with pytest.raises(SteerError, match="signal 'broken' is NaN at token 0 of step 0"):
        Router(PAIR, look).generate(PROMPT)


def test_a_failing_signal_of_a_cohort_is_named_once() -> None:
    def fail(stats: object) -> None:
        raise KeyError("no")

    policy = Percentile(signal=Signal("broken", fail), share=0.3)  # type: ignore[arg-type]
    with pytest.raises(SteerError, match="failed at token 0 of step 0: KeyError"):
        Router(PAIR, policy).cohort([PROMPT] * 3, max_new_tokens=12)


def test_ids_below_zero_are_no_tokens() -> None:
    with pytest.raises(SteerError, match="prompt holds token id -1, but the models know ids below"):
        PAIR.checked([1, -1])


def test_models_in_float64_are_refused() -> None:
    small, large = make_model("llama", 0), make_model("llama", 1).double()
    with pytest.raises(SteerError, match="the large model is in float64: load it in float32"):
        Pair(small, large, make_tokenizer())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_torchs_default_dtype_changes_nothing(dtype: torch.dtype) -> None:
    expected = ROUTER.generate(PROMPT, max_new_tokens=20).token_ids
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert ROUTER.generate(PROMPT, max_new_tokens=20).token_ids == expected
    finally:
        torch.set_default_dtype(before)


def test_autocast_is_lived_with() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = ROUTER.generate(PROMPT, max_new_tokens=20)
    assert len(output.token_ids) == 20 or output.trace.stop_reason == "eos"
