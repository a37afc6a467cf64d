"""Peers that may be installed beside this package.

They are called for the part of their work that compares. None of them returns maximum, log-sum-exp,
entropy and top-k together; each name says what it does give. A peer that is not installed, or does
not take the inputs, is left out, never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from torch import Tensor

Call = Callable[[], object]


def installed(op: str, logits: Tensor, k: int) -> dict[str, Call]:
    """Calls of installed libraries that do something like `op`.

    For these logits. They are not tried out: the caller is to leave out one that raises.
    """
    if not logits.is_cuda:
        return {}
    found: dict[str, Call] = {}
    for package, makers in _MAKERS.get(op, {}).items():
        if find_spec(package) is None:
            continue
        for name, make in makers.items():
            found[name] = _late(make, logits, k)
    return found


def _late(make: Callable[[Tensor, int], Call], logits: Tensor, k: int) -> Call:
    """Imports the library at the first call, so that an import that fails is one more refusal."""
    ready: list[Call] = []

    def call() -> object:
        if not ready:
            ready.append(make(logits, k))
        return ready[0]()

    return call


def _flashinfer_top_k(logits: Tensor, k: int) -> Call:
    flashinfer = import_module("flashinfer")
    return lambda: flashinfer.top_k(logits, k, sorted=True)


def _flashinfer_softmax(logits: Tensor, k: int) -> Call:
    sampling = import_module("flashinfer.sampling")
    return lambda: sampling.softmax(logits.float())  # takes float32 alone


def _flashinfer_sample(logits: Tensor, k: int) -> Call:
    sampling = import_module("flashinfer.sampling")
    return lambda: sampling.sampling_from_logits(logits.float())


def _vllm_logprobs(logits: Tensor, k: int) -> Call:
    sampler = import_module("vllm.v1.sample.sampler").Sampler
    return lambda: sampler.compute_logprobs(logits).topk(k, -1)


def _vllm_sample(logits: Tensor, k: int) -> Call:
    sampler = import_module("vllm.v1.sample.sampler").Sampler
    random_sample = import_module("vllm.v1.sample.ops.topk_topp_sampler").random_sample

    def call() -> object:
        logprobs = sampler.compute_logprobs(logits)
        return logprobs.topk(k, -1), random_sample(logprobs.exp(), {})

    return call


def _liger_softmax(logits: Tensor, k: int) -> Call:
    function = import_module("liger_kernel.ops.softmax").LigerSoftmaxFunction
    return lambda: function.apply(logits)


def _quack_softmax(logits: Tensor, k: int) -> Call:
    softmax = import_module("quack.softmax").softmax
    return lambda: softmax(logits)


def _quack_top_k(logits: Tensor, k: int) -> Call:
    topk = import_module("quack.topk").topk
    return lambda: topk(logits, k)


_MAKERS: dict[str, dict[str, dict[str, Callable[[Tensor, int], Call]]]] = {
    "logit_stats": {
        "flashinfer": {
            "FlashInfer top-k": _flashinfer_top_k,
            "FlashInfer softmax": _flashinfer_softmax,
        },
        "vllm": {"vLLM log-probabilities, top-k": _vllm_logprobs},
        "liger_kernel": {"Liger softmax": _liger_softmax},
        "quack": {"quack softmax": _quack_softmax, "quack top-k": _quack_top_k},
    },
    "sample_logits": {
        "flashinfer": {"FlashInfer sampling": _flashinfer_sample},
        "vllm": {"vLLM log-probabilities, top-k, sampling": _vllm_sample},
    },
}

# Names by op, whether or not they are installed.
NAMES = {op: [name for made in makers.values() for name in made] for op, makers in _MAKERS.items()}
