"""Memory and autograd around the kernels: what is written is not read, no derivative is lost."""

from __future__ import annotations

import itertools

import pytest
import torch
from support.backends import needs_extension
from torch import Tensor
from torch.autograd import forward_ad

import steer_kernels
from steer_kernels import (
    StepState,
    decode_attention,
    decode_linear,
    fast,
    kv_append_,
    rms_norm,
    step_update_,
)
from steer_kernels.ops import kv_append, step_update


def raw_kv(*arguments: Tensor) -> None:
    torch.ops.steer_kernels.kv_append_(*arguments)


KV = [
    pytest.param(kv_append_, id="public"),
    pytest.param(raw_kv, id="operator"),
    pytest.param(kv_append._fallback, id="reference"),
]


def index(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def kv_problem() -> dict[str, Tensor]:
    return {
        "k_cache": torch.arange(24.0).reshape(2, 1, 4, 3),
        "v_cache": -torch.arange(24.0).reshape(2, 1, 4, 3),
        "k": torch.full((2, 1, 1, 3), 100.0),
        "v": torch.full((2, 1, 1, 3), 200.0),
        "rows": index(0, 1),
        "starts": index(1, 3),
        "counts": index(1, 1),
    }


@pytest.mark.parametrize("append", KV)
def test_caches_that_lie_in_one_tensor_are_served(append) -> None:
    for dim in range(4):  # keys and values side by side in any dimension: [2, R, ..], [R, 2, ..] ..
        given = kv_problem()
        shape = [2, 1, 4, 3]
        both = torch.zeros(*shape[:dim], 2, *shape[dim:])
        if dim == 3:  # [.., 2, D]: a token's key and value back to back
            assert both.select(dim, 0).stride(2) == 6
        given["k_cache"], given["v_cache"] = both.select(dim, 0), both.select(dim, 1)
        append(*given.values())
        expected = torch.zeros_like(both)
        for side, value in enumerate((100.0, 200.0)):
            for row, start in ((0, 1), (1, 3)):
                expected.select(dim, side)[row, :, start] = value
        assert torch.equal(both, expected)


@pytest.mark.parametrize("append", KV)
def test_positions_of_the_cache_may_be_copied_to_others(append) -> None:
    given = kv_problem()
    cache = given["k_cache"].clone()
    given["k_cache"], given["k"] = cache, cache[:, :, :1]
    append(*given.values())
    assert torch.equal(cache[0, 0, 1], torch.tensor([0.0, 1.0, 2.0]))
    assert torch.equal(cache[1, 0, 3], torch.tensor([12.0, 13.0, 14.0]))


def shared_kv() -> dict[str, dict[str, Tensor]]:
    """Arguments of which one shares memory with what is written, by the name of the fault."""
    whole = torch.zeros(2, 1, 4, 3)
    longs = torch.zeros(2, 1, 4, 3, dtype=torch.int64)
    over = {"k_cache": longs, "k": longs[:, :, :1].clone() + 2**40}
    shifted = torch.zeros(30).as_strided((2, 1, 4, 3), (12, 12, 3, 1), 3)
    base = shifted.as_strided((2, 1, 4, 3), (12, 12, 3, 1), 0)
    return {
        "v_cache .* written of k_cache": {"k_cache": whole, "v_cache": whole},
        "_cache .* written of ._cache": {
            "k_cache": base,
            "v_cache": shifted,  # one token further on
            "rows": index(0, 0),
            "starts": index(2, 1),
        },
        "k .* written of k_cache": {"k_cache": whole, "k": whole[:, :, 1:2]},
        "v .* written of k_cache": {"k_cache": whole, "v": whole[:, :, 3:]},
        "rows .* written of k_cache": {**over, "rows": longs[0, 0, 1, :2]},
        "counts .* written of k_cache": {**over, "counts": longs[1, 0, 3, 1:].fill_(1)},
        "k_cache must have memory of its own": {
            "k_cache": torch.zeros(20).as_strided((2, 1, 4, 3), (6, 6, 3, 1))
        },
    }


@pytest.mark.parametrize("fault", list(shared_kv()))
@pytest.mark.parametrize("append", KV)
def test_what_kv_append_writes_is_read_nowhere(append, fault: str) -> None:
    given = kv_problem() | shared_kv()[fault]
    before = {name: tensor.clone() for name, tensor in given.items()}
    with pytest.raises((ValueError, RuntimeError), match=fault):
        append(*given.values())
    for name, tensor in given.items():
        assert torch.equal(tensor, before[name]), name


STEP = [
    pytest.param(
        lambda *a, **k: step_update_(StepState(*a[:7]), *a[7:], **k),
        id="public",
    ),
    pytest.param(torch.ops.steer_kernels.step_update_, id="operator"),
    pytest.param(step_update._fallback, id="reference"),
]


def step_problem() -> dict[str, Tensor]:
    state = StepState.of_prompts([[1], [2]], max_new_tokens=3)
    return {
        **{name: tensor.clone() for name, tensor in state._asdict().items()},
        "token": index(3, 4),
        "score": torch.zeros(2),
        "token_class": torch.full((8,), 24, dtype=torch.uint8),
    }


@pytest.mark.parametrize("update", STEP)
def test_what_step_update_writes_is_read_nowhere(update) -> None:
    names = list(step_problem())
    written = names[:6]
    pairs = [(a, b) for a, b in itertools.combinations(names, 2) if a in written or b in written]
    assert len(pairs) == 39
    for one, other in pairs:
        given = step_problem()
        sizes = [given[name].numel() * given[name].element_size() for name in (one, other)]
        memory = torch.zeros(max(sizes), dtype=torch.uint8)
        for name in (one, other):  # both at the same address
            old = given[name]
            size = old.numel() * old.element_size()
            given[name] = memory[:size].view(old.dtype).view(old.shape)
        with pytest.raises(
            ValueError, match=f"({one}|{other}) shares memory .* of ({one}|{other})"
        ):
            update(*given.values())


@pytest.mark.parametrize("update", STEP)
def test_a_vector_in_the_gap_between_rows_of_the_transcript_is_served(update) -> None:
    given = step_problem()
    memory = torch.zeros(2, 8, dtype=torch.int64)
    transcript, length = memory[:, :4], memory[0, 5:7]
    transcript.copy_(given["transcript"])
    length.copy_(given["length"])
    given["transcript"], given["length"] = transcript, length
    update(*given.values())
    assert transcript[:, :2].tolist() == [[1, 3], [2, 4]]
    assert length.tolist() == [2, 2]
    given["length"] = memory[0, 3:5]  # one element in the row, one behind it
    with pytest.raises(ValueError, match=r"length shares memory .* transcript"):
        update(*given.values())


def versions(tensors: list[Tensor]) -> list[int]:
    return [tensor._version for tensor in tensors]


def test_version_counters_move_as_those_of_copy() -> None:
    weight = torch.ones(1, requires_grad=True)
    for append in (kv_append_, raw_kv):
        given = kv_problem()
        loss = (given["k_cache"] * weight).sum()
        before = versions(list(given.values()))
        append(*given.values())
        assert versions(list(given.values())) == [
            version + (name in ("k_cache", "v_cache"))
            for name, version in zip(given, before, strict=True)
        ]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    given = step_problem()
    before = versions(list(given.values()))
    step_update_(StepState(*list(given.values())[:7]), *list(given.values())[7:])
    moved = [b - a for a, b in zip(before, versions(list(given.values())), strict=True)]
    assert moved == [1] * 6 + [0] * 4


def test_a_refused_call_moves_no_version_counter() -> None:
    given = kv_problem() | {"rows": index(0, 7)}
    before = versions(list(given.values()))
    with pytest.raises(ValueError, match=r"rows\[1\] is 7"):
        kv_append_(*given.values())
    assert versions(list(given.values())) == before


def test_outputs_of_the_fast_path_are_counted_and_apart() -> None:
    logits = torch.randn(2, 40)
    out = fast.empty_stats(2, 4)
    before = versions(list(out))
    fast.logit_stats_(logits, out)
    assert [b - a for a, b in zip(before, versions(list(out)), strict=True)] == [1] * 6
    if not fast.native():
        pytest.skip("the operators allocate outputs of their own")
    with pytest.raises(ValueError, match=r"logits shares memory .* of out\.lse"):
        fast.logit_stats_(logits, out._replace(lse=logits[1, 3:5]))
    with pytest.raises(ValueError, match=r"out\.entropy shares memory .* of out\.lse"):
        fast.logit_stats_(logits, out._replace(entropy=out.lse))


def layer_calls() -> dict[str, tuple]:
    """Ours, torch's, and the tensors of which each may carry a derivative."""
    starts = index(2)
    heads = [torch.randn(1, 2, n, 4) for n in (1, 3, 3)]
    return {
        "rms_norm": (
            lambda x, w: rms_norm(x, w, 1e-6),
            lambda x, w: torch.nn.functional.rms_norm(x, (8,), w, 1e-6),
            [torch.randn(3, 8), torch.randn(8)],
        ),
        "decode_linear": (
            decode_linear,
            torch.nn.functional.linear,
            [torch.randn(3, 8), torch.randn(5, 8), torch.randn(5)],
        ),
        "decode_attention": (
            lambda q, k, v: decode_attention(q, k, v, starts).transpose(1, 2),
            lambda q, k, v: torch.softmax(q @ k.mT / 2, -1) @ v,
            heads,
        ),
    }


@pytest.mark.parametrize("name", list(layer_calls()))
def test_forward_mode_is_refused_and_not_zero(name: str) -> None:
    ours, theirs, tensors = layer_calls()[name]
    assert torch.allclose(ours(*tensors), theirs(*tensors), atol=1e-5)
    for place in range(len(tensors)):
        tangent = torch.arange(tensors[place].numel()).view_as(tensors[place]).float()

        def with_one(call, at=place):  # a function of one tensor alone
            return lambda t: call(*tensors[:at], t, *tensors[at + 1 :])

        _, right = torch.func.jvp(with_one(theirs), (tensors[place],), (tangent,))
        assert right.abs().max() > 1e-3  # what a silent zero would stand for
        with pytest.raises(ValueError, match="must not carry a forward-mode derivative"):
            torch.func.jvp(with_one(ours), (tensors[place],), (tangent,))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(tensors[place], tangent)
            with pytest.raises(ValueError, match="must not carry a forward-mode derivative"):
                with_one(ours)(dual)
            plain = with_one(ours)(forward_ad.unpack_dual(dual).primal)  # the way out
        assert torch.equal(plain, ours(*tensors))


def test_a_cache_with_a_forward_mode_derivative_is_refused() -> None:
    for name in ("k_cache", "v_cache", "k", "v"):
        given = kv_problem()
        with forward_ad.dual_level():
            given[name] = forward_ad.make_dual(given[name], torch.ones_like(given[name]))
            with pytest.raises(ValueError, match=f"^{name} must not carry a forward-mode"):
                kv_append_(*given.values())


@needs_extension
def test_memory_that_was_freed_is_refused() -> None:
    logits = torch.randn(2, 50)
    logits.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="logits has no memory"):
        steer_kernels.logit_stats(logits)
    given = kv_problem()
    given["v_cache"].untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="v_cache has no memory"):
        kv_append_(*given.values())


@needs_extension
def test_scratch_that_no_memory_could_hold_is_refused() -> None:
    keys = torch.zeros(1, 1, 1, 1).expand(1, 1, 1 << 62, 1)
    with pytest.raises(MemoryError):
        decode_attention(torch.zeros(1, 1024, 1, 1), keys, keys, index((1 << 61) - 1))
