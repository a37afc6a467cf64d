"""Grouped keys under a mask, not repeated: the same logits, and nothing of the repeated size made.

The device is the CPU, where passes go another way; the tests have them go this one.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import Transcript
from steer_decode.engines.hf import grouped
from steer_decode.engines.hf.lane import Lane
from steer_decode.engines.hf.serving import Serving
from support.tiny import FAMILIES, make_model, prompt_ids
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

LENGTHS = (5, 17, 9)
HEADS, GROUPS = 4, 2  # of the tiny models
OPERATORS = 28


class Watched(TorchDispatchMode):
    """Operators that make a tensor of their own, and its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        if isinstance(found, Tensor) and found.untyped_storage().data_ptr() not in given:
            self.made.append((func.name(), tuple(found.shape)))
        return found


def lane_of(family: str, usable: bool, layers: int = 2) -> Lane:
    model = make_model(family, 0, layers=layers)
    transcripts = [Transcript(prompt_ids(i, length)) for i, length in enumerate(LENGTHS)]
    lane = Lane(model, ModelShape.of(model), transcripts, serving=Serving(direct=False))
    lane.forward._grouped.usable = usable
    return lane


def decoded(family: str, usable: bool, new: int, layers: int = 2) -> tuple[Tensor, Watched]:
    """Logits of a pass of a few new tokens over rows of different length, and what was made."""
    lane = lane_of(family, usable, layers)
    ids = torch.tensor([prompt_ids(i + 7, new) for i in range(len(LENGTHS))])
    with torch.no_grad():
        lane.catch_up(range(len(LENGTHS)))
        span = lane.cache.begin(range(len(LENGTHS)), [new] * len(LENGTHS), torch.device("cpu"))
        assert span.ragged
        with Watched() as watched:
            logits = lane.forward.logits(ids, span)
    return logits.double(), watched


def repeated(watched: Watched) -> bool:
    """Whether keys or values of all heads were made: [B, H, W, size], W beyond a token's."""
    sizes = [shape for _, shape in watched.made if len(shape) > 3 and shape[-2] > max(LENGTHS)]
    return any(math.prod(shape[1:-2]) == HEADS for shape in sizes)


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_logits(family: str, new: int) -> None:
    plain, before = decoded(family, False, new)
    logits, after = decoded(family, True, new)
    torch.testing.assert_close(logits, plain, atol=2e-5, rtol=2e-5)
    if family != "gpt_neox":  # as many keys as heads
        assert repeated(before) or new == 1  # of one token newer transformers do it too
        assert not repeated(after)


def test_long_passes_stay_as_they_were() -> None:
    *_, before = decoded("llama", False, grouped.MOST_QUERIES + 1)
    *_, after = decoded("llama", True, grouped.MOST_QUERIES + 1)
    assert before.made == after.made


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_operators_a_layer(family: str) -> None:
    """That make something, in a pass of a token: three layers less two. Each may be a kernel.

    7 products, 2 norms, 13 of RoPE, 2 sums of the residual, 2 of the MLP, attention, and its mask;
    ``kv_append_`` writes in place.
    """
    two, three = (len(decoded(family, True, 1, layers)[1].made) for layers in (2, 3))
    assert three - two <= OPERATORS


def test_another_thread_gets_what_it_would_get() -> None:
    """And so does this one when no pass of ours is under way."""
    query, key = torch.randn(2, HEADS, 1, 8), torch.randn(2, GROUPS, 9, 8)
    mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    module = torch.nn.Module()
    module.num_key_value_groups = HEADS // GROUPS  # type: ignore[assignment]
    seen: list[Tensor] = []
    lane = lane_of("llama", True)

    def attend() -> None:
        seen.append(grouped._attend(module, query, key, key, mask, scaling=0.3)[0])

    plain = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, key, mask, scaling=0.3)[0]
    attend()
    with lane.forward._grouped.during(1):
        thread = threading.Thread(target=attend)
        thread.start()
        thread.join()
        attend()
    assert torch.equal(seen[0], plain)
    assert torch.equal(seen[1], plain)
    torch.testing.assert_close(seen[2], plain)
    assert lane.model.config._attn_implementation == "sdpa"


def test_the_cpu_has_another_way() -> None:
    model = make_model("llama", 0)
    assert not grouped.GroupedAttention(model).usable
