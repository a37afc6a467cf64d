"""What a quantized model will hold, by its config.

It is reckoned before any weight is there. A config says how many bits a weight has and how many
weights share a scale; which layers are left as they are it says too. What is loaded is then counted
by ``weights.py``, this is within some percent of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..core.experts import Stack
from ..core.weights import matrix_bytes, matrix_weights, tensor_bytes

_BITS = ("bits", "nbits", "num_bits", "w_bit", "weight_bits")
_LEFT = ("modules_to_not_convert", "llm_int8_skip_modules", "skip_modules", "ignore")
# Methods whose config need not name the bits, and what a weight takes, scales included.
_METHODS = {"mxfp4": 4.25, "nvfp4": 4.5, "fp8": 8.0, "fbgemm_fp8": 8.0, "eetq": 8.0, "bitnet": 2.0}
_WORDS = (("int4", 4.0), ("int2", 2.0), ("int8", 8.0), ("float8", 8.0), ("fp8", 8.0))
# Methods that know experts which are stacked in one tensor; others quantize linear layers alone.
_STACKS = ("mxfp4", "nvfp4", "fp8", "fbgemm_fp8", "gptq", "awq", "compressed-tensors")


@dataclass(frozen=True)
class Quantization:
    """How the weights of a model are packed.

    Attributes:
        method: its name in the config.
        bits: of a weight, its part of scales and zero points included; None where the config does
            not say it in a way that is known here.
        left: names or patterns of modules that are left as they are.
    """

    method: str
    bits: float | None
    left: tuple[str, ...]

    @classmethod
    def of(cls, config: Any) -> Quantization | None:
        """What the ``quantization_config`` of a config says.

        None where there is none.
        """
        found = getattr(config, "quantization_config", None)
        if found is None:
            return None
        facts = found if isinstance(found, Mapping) else found.to_dict()
        method = facts.get("quant_method")
        method = str(getattr(method, "value", method) or "unknown")
        left = [name for key in _LEFT for name in facts.get(key) or ()]
        return cls(method, _bits(method, facts), tuple(map(str, left)))

    def leaves(self, name: str) -> bool:
        """Whether the module called ``name`` is left as it is."""
        return any(_matches(pattern, name) for pattern in self.left)


class Reckoned:
    """Bytes that a model will hold when it is quantized.

    Embeddings, the head, norms and routers that are no linear layers stay as they are; so do
    stacked experts where the method knows linear layers only.
    """

    def __init__(self, model: PreTrainedModel, quantization: Quantization) -> None:
        head = model.get_output_embeddings()
        names = {id(m): name for name, m in model.named_modules()}
        self._share = (quantization.bits or 0.0) / 8
        self._left = {i for i, name in names.items() if quantization.leaves(name)} | {id(head)}
        self._stacks = quantization.method in _STACKS

    def matrix(self, module: nn.Module) -> int:
        if not self._share or id(module) in self._left:
            return matrix_bytes(module)
        return round(self._share * matrix_weights(module))

    def stacked(self, stack: Stack, name: str) -> int:
        if not self._share or not self._stacks or id(stack.module) in self._left:
            return tensor_bytes(stack.tensors[name])
        return round(self._share * stack.weights(name))


def _bits(method: str, facts: Mapping[str, Any]) -> float | None:
    """Bits of a weight and its part of what belongs to its group."""
    if method == "bitsandbytes" or "load_in_4bit" in facts:
        if not facts.get("load_in_4bit"):
            return 8.0 if facts.get("load_in_8bit") else None  # and a float32 a row
        # A float32 scale for 64 weights; or a byte, and a float32 for 256 of these.
        return 4 + (8 + 32 / 256) / 64 if facts.get("bnb_4bit_use_double_quant") else 4 + 32 / 64
    for part in (facts, *_nested(facts)):
        bits = next((part[key] for key in _BITS if isinstance(part.get(key), int)), None)
        if bits:
            group = part.get("group_size")
            # A 16-bit scale and a zero point for each group; next to nothing for a whole row.
            zero = 0 if part.get("symmetric") else bits
            per_weight = (16 + zero) / group if isinstance(group, int) and group > 0 else 0.0
            return float(bits + per_weight)
    words = [str(v).lower() for v in (method, facts.get("quant_type"), facts.get("weights"))]
    found = (n for word, n in _WORDS if any(word in text.replace("_", "") for text in words))
    return _METHODS.get(method) or next(found, None)


def _nested(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What compressed-tensors says of its first group of weights."""
    groups = facts.get("config_groups")
    if not isinstance(groups, Mapping):
        return []
    weights = (g.get("weights") for g in groups.values() if isinstance(g, Mapping))
    return [w for w in weights if isinstance(w, Mapping)]


def _matches(pattern: str, name: str) -> bool:
    """Whether a name is meant: by itself, by its end, as a part, or by "re:" and pieces with ".*".

    A config is data: its expressions are not run, which could take for ever.
    """
    if not pattern.startswith("re:"):
        return name == pattern or name.endswith(f".{pattern}") or f".{pattern}." in f".{name}."
    place = 0
    for piece in pattern[3:].strip("^$").replace("\\", "").split(".*"):
        found = name.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece)
    return not pattern.endswith("$") or pattern.endswith(".*$") or place == len(name)
