"""The gate's two classes, over vLLM's interfaces, or over what stands for them where it is not.

What stands for them has the names, fields and order of calls that vLLM 0.32 and 0.33 have; the
tests of real engines (marker ``vllm``) hold the gate against the real ones.
"""

from __future__ import annotations

import enum
import importlib
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

V1 = "vllm.v1.sample.logits_processor"
V2 = "vllm.v1.worker.gpu.sample.logits_processor"


class _ProcessorV1(ABC):
    @classmethod  # noqa: B027
    def validate_params(cls, sampling_params: Any) -> None: ...

    @abstractmethod
    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None: ...

    @abstractmethod
    def apply(self, logits: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def is_argmax_invariant(self) -> bool: ...

    @abstractmethod
    def update_state(self, batch_update: Any) -> None: ...


class _Direction(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


@dataclass(frozen=True)
class _BatchUpdate:
    batch_size: int
    removed: Any
    added: Any
    moved: Any


class _ProcessorV2(ABC):
    def __init__(self, vllm_config: Any, req_states: Any) -> None:  # noqa: B027
        ...

    @classmethod  # noqa: B027
    def validate_params(cls, sampling_params: Any) -> None: ...

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        return True

    def apply_staged_writes(self) -> None: ...  # noqa: B027

    @abstractmethod
    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor: ...


@dataclass(frozen=True)
class _Context:
    expanded_idx_mapping: torch.Tensor
    idx_mapping: torch.Tensor
    idx_mapping_np: Any
    expanded_local_pos: torch.Tensor
    input_ids: torch.Tensor
    pos: torch.Tensor
    seq_lens_upper_bound_np: Any


_STANDINS = {
    V1: {
        "LogitsProcessor": _ProcessorV1,
        "BatchUpdate": _BatchUpdate,
        "MoveDirectionality": _Direction,
    },
    V2: {"LogitsProcessor": _ProcessorV2, "LogitsContext": _Context},
}


def _load(gate: str, interface: str) -> tuple[ModuleType, ModuleType]:
    """The gate's module and the interface's, which is in ``sys.modules`` only if it is real."""
    if find_spec("vllm") is not None:
        return importlib.import_module(gate), importlib.import_module(interface)
    standin = ModuleType(interface)
    vars(standin).update(_STANDINS[interface])
    names = [interface.rsplit(".", i)[0] for i in range(interface.count(".") + 1)]
    try:
        for name in names:
            sys.modules[name] = standin if name == interface else ModuleType(name)
        return importlib.import_module(gate), standin
    finally:
        for name in names:
            del sys.modules[name]


gate_v1, v1 = _load("steer_decode.engines.vllm.gate_v1", V1)
gate_v2, v2 = _load("steer_decode.engines.vllm.gate_v2", V2)


def config(tokenizer: str | Path, columns: int, rows: int = 16, drafts: int = 0) -> Any:
    """``VllmConfig``, as far as the gate looks."""
    model = SimpleNamespace(
        tokenizer=str(tokenizer),
        tokenizer_revision=None,
        trust_remote_code=False,
        get_vocab_size=lambda: columns,
    )
    return SimpleNamespace(
        model_config=model,
        scheduler_config=SimpleNamespace(max_num_seqs=rows),
        speculative_config=SimpleNamespace(num_speculative_tokens=drafts) if drafts else None,
    )


def parameters(extra: dict[str, Any] | None, stops: Any = ()) -> Any:
    """``SamplingParams``, as far as the gate looks."""
    return SimpleNamespace(extra_args=extra, stop_token_ids=list(stops), n=1)
