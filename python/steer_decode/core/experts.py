"""Experts of a model: where, how many, how many chosen.

Experts are modules that hold tensors stacked along the first dimension, as many as the router
chooses from (transformers 5), or lists of as many modules alike (transformers 4, code that comes
with a model). Both numbers are looked for where the model itself has them: in the module, in the
block around it, in the block's other modules (the router), in the config. Where none is found,
nothing is chosen, and all of it counts for every token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# What the families of transformers, and code that comes with models, call the two numbers.
_NUMBER = re.compile(r"(moe_)?(n|num)_(local_|routed_|total_)?experts")
_CHOSEN = re.compile(r"(moe_)?top_?k(_experts)?|moe_k|(num_)?experts_per_tok(en)?")
_SAMPLING = "top_k"  # in older configs, a setting of sampling
_SCALES = re.compile(r"scale|zero|absmax")
_PACKED = {torch.uint8: 2, torch.int32: 8}  # weights of four bits in an element


@dataclass(frozen=True)
class Experts:
    """Experts of one size, some of which each token passes.

    A router chooses them.

    Attributes:
        number: from which it chooses, E.
        chosen: how many each token passes, k.
        weights: of the matrices of one expert.
        nbytes: bytes of the matrices of one expert, scales included.
        layers: how many layers have such experts.
    """

    number: int
    chosen: int
    weights: int
    nbytes: float
    layers: int = 1

    @property
    def active(self) -> int:
        """Weights that a token passes, in all layers' expert matrices."""
        return self.layers * self.chosen * self.weights

    def distinct(self, tokens: int) -> float:
        """Expected experts of a layer that ``tokens`` tokens read together.

        E (1 - (1 - k / E)^t), as in MoESD (arXiv 2505.19645): each token leaves an expert out with
        probability 1 - k / E, if routers choose evenly and tokens do not depend on one another.
        Neighbours in a text choose more alike than that, so it is rather too many.
        """
        return self.number * (1 - (1 - self.chosen / self.number) ** tokens)


@dataclass(frozen=True)
class Stack:
    """The experts of one layer.

    A module holds the tensors; the list is one of modules.

    Attributes:
        tensors: the stacked ones that are multiplied, and their scales; none of a list.
    """

    module: nn.Module
    number: int
    chosen: int
    tensors: dict[str, Tensor]

    def weights(self, name: str) -> int:
        """Weights in one of the stacked tensors, however packed.

        Scales have none.
        """
        tensor = self.tensors[name]
        return 0 if _SCALES.search(name) else tensor.numel() * _PACKED.get(tensor.dtype, 1)

    def rows(self, name: str) -> int:
        """How many experts a stacked tensor has room for."""
        tensor = self.tensors[name]
        return tensor.shape[0] if tensor.dim() > 2 else self.number


def find_stacks(decoder: nn.Module, config: Any) -> list[Stack]:
    """All experts of a decoder among which routers choose.

    Args:
        decoder: the model without its head.
        config: of its text, see ``get_text_config``.
    """
    found = _Finder(vars(config))
    found.search("", decoder, [])
    return found.stacks


def is_router_weight(module: nn.Module, weight: Tensor) -> bool:
    """Whether ``weight`` is the matrix of a router.

    The router has its matrix itself, not in a module of its own.
    """
    numbers = _numbers(vars(module), _NUMBER)
    return weight.dim() == 2 and any(1 < n <= weight.shape[0] for n in numbers)


class _Finder:
    """Walks through the modules of a decoder; experts are not walked through."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.stacks: list[Stack] = []
        self._numbers = _numbers(config, _NUMBER)
        self._chosen = _numbers({k: v for k, v in config.items() if k != _SAMPLING}, _CHOSEN)

    def search(self, name: str, module: nn.Module, around: list[_Facts]) -> None:
        """Look at a module and at those in it.

        ``name`` is what its block calls it. ``around`` is what the blocks about it know, the
        innermost first.
        """
        stack = self._stack(name, module, [_Facts.of(module), *around[:2]])
        if stack is not None:
            self.stacks.append(stack)
            return
        inner = [_Facts.of(module, *module.children()), *around]
        for child_name, child in module.named_children():
            self.search(child_name, child, inner)

    def _stack(self, name: str, module: nn.Module, facts: list[_Facts]) -> Stack | None:
        """The experts that a module is, if it is such."""
        chosen = [k for fact in facts for k in fact.chosen] or self._chosen
        for number in [n for fact in facts for n in fact.numbers] + self._numbers:
            if number < 2 or not chosen:
                continue
            k = min(chosen[0], number)
            if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                if len(module) == number and "expert" in name:
                    return Stack(module, number, k, {})
            elif tensors := _stacked(module, number):
                return Stack(module, number, k, tensors)
        return None


@dataclass(frozen=True)
class _Facts:
    """What some modules know of experts: how many there are, and how many are chosen."""

    numbers: list[int]
    chosen: list[int]

    @classmethod
    def of(cls, *modules: nn.Module) -> _Facts:
        facts = list(map(vars, modules))
        numbers = [n for fact in facts for n in _numbers(fact, _NUMBER)]
        return cls(numbers, [k for fact in facts for k in _numbers(fact, _CHOSEN)])


def _stacked(module: nn.Module, number: int) -> dict[str, Tensor]:
    """The matrices that a module keeps for ``number`` experts, scales among them."""
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    tensors = {name: t for name, t in own if t.dim() > 2 and t.shape[0] >= number}
    if all(t.shape[0] > number for t in tensors.values()):
        tensors = {}  # LongCat has rows to spare in one of its two, for experts that do nothing
    if not tensors and _numbers(vars(module), _NUMBER) and not hasattr(module, "in_features"):
        # DBRX keeps the rows of all experts one after another.
        rows = [(name, t) for name, t in own if t.dim() == 2 and t.shape[0] > number]
        tensors = {name: t for name, t in rows if t.shape[0] % number == 0}
    return tensors


def _numbers(fact: dict[str, Any], pattern: re.Pattern[str]) -> list[int]:
    """The whole numbers above 0 that go by a name of ``pattern``."""
    found = (key for key, value in fact.items() if type(value) is int and value > 0)
    return [fact[key] for key in found if pattern.fullmatch(key)]
