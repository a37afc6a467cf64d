"""Layers that take fewer kernels: the numbers of transformers, and how many kernels there are."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steer_decode import AlwaysLarge, RandomShare, Router, SteerError
from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import Transcript
from steer_decode.engines.hf import gpu
from steer_decode.engines.hf.host_reads import host_reads
from steer_decode.engines.hf.lane import Lane
from support.kernels_counted import counted
from support.tiny import FAMILIES, make_model, make_pair, prompt_ids, prompt_text
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from transformers import PreTrainedModel

from steer_kernels import layers

pytestmark = pytest.mark.usefixtures("as_on_a_card")
ALL = (*FAMILIES, "olmo3")
WHOLE = ("llama", "qwen2", "qwen3")
LENGTHS = (5, 17, 9)
# 7 products, RoPE and cache, attention, two sums with their norms, the product in the MLP. On CUDA
# attention is one more where keys are grouped: SDPA's result is copied.
KERNELS = 12


def lane_of(model: PreTrainedModel) -> Lane:
    texts = [Transcript(prompt_ids(i, length)) for i, length in enumerate(LENGTHS)]
    lane = Lane(model, ModelShape.of(model), texts)
    lane.forward._grouped.usable = True  # as on a card
    return lane


def logits_of(model: PreTrainedModel) -> Tensor:
    """Behind three prompts, and behind a token more of each."""
    lane = lane_of(model)
    rows = range(len(LENGTHS))
    found = [lane.catch_up(rows).clone()]
    for row in rows:
        lane.transcript(row).append(7, "small")
    return torch.cat([*found, lane.catch_up(rows).clone()])


def ours(lane: Lane) -> Counter[str]:
    """How many layers of each kind are ours."""
    names = [f.__func__.__module__.rpartition(".")[2] for _, f in lane.forward._call._layers]
    return Counter(names)


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setenv("STEER_DECODE_GPU", "off")


# ---- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ALL)
def test_the_same_logits(family: str, off: Callable[[], None]) -> None:
    model = make_model(family, 0)
    found = ours(lane_of(model))
    logits = logits_of(model)
    if family in WHOLE:
        assert found["decoder"] == found["attention"] == found["mlp"] == 2
        assert found["norm"] == (9 if family == "qwen3" else 5)
    else:
        assert not found["attention"]
    off()
    plain = logits_of(model)
    assert not ours(lane_of(model))
    torch.testing.assert_close(logits, plain, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("family", WHOLE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_logits_of_sixteen_bits(family: str, dtype: torch.dtype, off: Callable[[], None]) -> None:
    model = make_model(family, 0).to(dtype)
    logits = logits_of(model)
    off()
    torch.testing.assert_close(logits, logits_of(model), atol=0.08, rtol=0.08)


@pytest.mark.parametrize("family", WHOLE)
@pytest.mark.parametrize("ahead", [1, 5])
@pytest.mark.few(2)
def test_greedy_tokens_are_those_of_generate(family: str, ahead: int) -> None:
    pair = make_pair(family, 3)
    router = Router(pair, AlwaysLarge(), ahead=ahead)
    padding = list(range(pair.vocab_size, pair.large.config.vocab_size))  # of its head
    how: dict[str, Any] = {"max_new_tokens": 40, "do_sample": False, "suppress_tokens": padding}
    for seed in range(3):
        ids = prompt_ids(seed, 4 + 9 * seed)
        written = pair.large.generate(torch.tensor([ids]), **how)
        output = router.generate(ids, max_new_tokens=40)
        assert output.token_ids == written[0, len(ids) :].tolist()


def test_rows_that_hand_over_write_the_same(off: Callable[[], None]) -> None:
    pair, prompts = make_pair("qwen3", 1), [prompt_text(i, 3 + 7 * i) for i in range(4)]
    found = []
    for switch in (lambda: None, off):
        switch()
        outputs = Router(pair, RandomShare(0.5), ahead=4).cohort(prompts, max_new_tokens=30)
        found.append([[(s.writer, s.token_ids) for s in out.trace.steps] for out in outputs])
    assert found[0] == found[1]


# ---- kernels ---------------------------------------------------------------------------------


def run_in(family: str, layers_: int, dtype: torch.dtype = torch.bfloat16) -> list[str]:
    """What a decode step of three rows of different length launches."""
    lane = lane_of(make_model(family, 0, layers=layers_).to(dtype))
    rows, ids = range(len(LENGTHS)), torch.tensor([[3], [4], [5]])
    with torch.no_grad():
        lane.catch_up(rows)
        span = lane.cache.begin(rows, [1] * len(LENGTHS), torch.device("cpu"))
        assert span.ragged
        with counted() as names:
            lane.forward.logits(ids, span)
    return names


def a_layer(family: str) -> int:
    return len(run_in(family, 3)) - len(run_in(family, 2))


@pytest.mark.parametrize("family", WHOLE)
def test_kernels_a_layer(family: str, off: Callable[[], None]) -> None:
    """Three layers less two, of a decode step in bfloat16 as a GPU would have it."""
    assert a_layer(family) == KERNELS
    off()
    assert a_layer(family) == {"qwen3": 58}.get(family, 42)


def test_another_family_has_what_it_shares() -> None:
    """Mistral's attention has a window; its norms, sums and MLP are those of Llama."""
    assert a_layer("mistral") == 22


def test_nothing_is_read_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a pass can be captured; definitions alone read where to write."""
    lane = lane_of(make_model("qwen3", 0))
    kernel = layers._kernel

    def unwatched(name: str, like: Tensor) -> Any:
        definition = getattr(layers.reference, name if name != "rope_append" else "rope_append_")

        def run(*args: Any) -> Any:
            with _disable_current_modes():
                return definition(*args)

        return kernel(name, like) or run

    monkeypatch.setattr(layers, "_kernel", unwatched)
    with torch.no_grad():
        lane.catch_up(range(3))
        span = lane.cache.begin(range(3), [1] * 3, torch.device("cpu"))
        ids = torch.tensor([[3], [4], [5]])
        assert host_reads(lambda: lane.forward.logits(ids, span)) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the kernels run by themselves")
@pytest.mark.slow
def test_the_kernels_themselves_in_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, in place of the definitions."""
    pytest.importorskip("triton")
    model = make_model("qwen3", 0)
    expected = logits_of(model)
    launched = []

    def kernel(name: str, like: Tensor) -> Any:
        launched.append(name)
        return layers.triton_kernel(name)

    monkeypatch.setattr(layers, "_kernel", kernel)
    torch.testing.assert_close(logits_of(model), expected, atol=2e-5, rtol=2e-5)
    assert set(launched) == {"add_rms_norm", "rope_append", "silu_mul"}


@pytest.mark.gpu
@pytest.mark.parametrize("family", WHOLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_on_a_card(family: str, dtype: torch.dtype, off: Callable[[], None]) -> None:
    model = make_model(family, 0, width=128).to("cuda", dtype)
    logits = logits_of(model)
    off()
    tolerance = 1e-4 if dtype is torch.float32 else 0.08
    torch.testing.assert_close(logits, logits_of(model), atol=tolerance, rtol=tolerance)


# ---- the switch ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "0", "OFF"])
def test_another_value_of_the_switch_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_DECODE_GPU", value)
    wrong = f"STEER_DECODE_GPU must be on or off, got {value!r}: unset it, or set either"
    with pytest.raises(SteerError) as raised:
        lane_of(make_model("llama", 0))
    assert str(raised.value) == wrong


def test_a_cpu_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert gpu.enabled()
    assert not gpu.serves(torch.device("cpu"))
    assert gpu.serves(torch.device("cuda"))


def test_without_triton_all_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = importlib.import_module(f"{gpu.__name__}.layers")
    monkeypatch.setattr(inner, "in_one_kernel", lambda: False)
    assert not ours(lane_of(make_model("llama", 0)))
