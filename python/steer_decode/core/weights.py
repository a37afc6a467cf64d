"""How many weights a model has, and what they take.

Also which of them a token passes. Read from the tree of modules, not from lists of families:

- A *matrix* is a module that knows its ``in_features`` and ``out_features`` (``nx`` and ``nf`` for
  GPT-2's Conv1D), whatever it keeps: a float weight, int32 words with several weights each (GPTQ,
  AWQ, compressed-tensors), bytes with two (bitsandbytes), a tensor of torchao, a packed object of
  ``torch.ao.quantization``. It has in times out weights. Its bytes are those of all it keeps,
  scales and zero points included, but the bias.
- *Experts* are those among which a router chooses, see ``experts.py``.
- Experts that every token passes ("shared") are matrices like any other, and so is the router.
- All else (norms, biases, embedding tables) is parameters, and no product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .experts import Experts, Stack, find_stacks, is_router_weight

# What torch, GPTQ's and AWQ's layers, and GPT-2 call the two sides of a matrix.
_SIZES = (("in_features", "out_features"), ("infeatures", "outfeatures"), ("nx", "nf"))
_PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Weights:
    """The weights of a causal language model.

    Attributes:
        parameters: all of them, a tied embedding counted once.
        active: those that a token passes: all but the experts that its routers do not choose.
        body: weights of the matrices that every token passes before the head.
        head: weights of the language-model head.
        body_bytes, head_bytes: of these matrices as they are held.
        nbytes: of all that the model holds.
        experts: those that are chosen from, alike ones together.
        widest: most numbers that a matrix puts out.
    """

    parameters: int
    active: int
    body: int
    head: int
    body_bytes: int
    head_bytes: int
    nbytes: int
    experts: tuple[Experts, ...]
    widest: int


class Packing(Protocol):
    """Bytes that weights will take, where not yet so held."""

    def matrix(self, module: nn.Module) -> int:
        """Bytes of a matrix."""
        ...

    def stacked(self, stack: Stack, name: str) -> int:
        """Bytes of one of the stacked tensors of experts."""
        ...


class _AsHeld:
    """The bytes in which weights are held now."""

    def matrix(self, module: nn.Module) -> int:
        return matrix_bytes(module)

    def stacked(self, stack: Stack, name: str) -> int:
        return tensor_bytes(stack.tensors[name])


AS_HELD = _AsHeld()


def read_weights(model: PreTrainedModel, packing: Packing = AS_HELD) -> Weights:
    """Count the weights of a model.

    The model is loaded or on the meta device. ``packing`` says what they will take where they are
    to be packed otherwise than they are.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    stacks = find_stacks(decoder, model.config.get_text_config(decoder=True))
    inside = {id(m) for stack in stacks for m in stack.module.modules()}
    others = [m for m in decoder.modules() if id(m) not in inside and m is not head]
    matrices = [m for m in others if is_matrix(m)]
    loose = [weight for m in others for weight in _loose(m)]
    found = Counter(_experts(stack, packing) for stack in stacks)
    sizes = [_parameters(stack) for stack in stacks]
    # Packed stacks hold fewer elements than they stand for.
    missing = sum(n - count_parameters(s.module) for s, (n, _) in zip(stacks, sizes, strict=True))
    parameters = count_parameters(model) + missing
    return Weights(
        parameters=parameters,
        active=parameters - sum(total - passed for total, passed in sizes),
        body=sum(map(matrix_weights, matrices)) + sum(w.numel() for w in loose),
        head=matrix_weights(head),
        body_bytes=sum(map(packing.matrix, matrices)) + sum(map(tensor_bytes, loose)),
        head_bytes=packing.matrix(head),
        nbytes=held_bytes(model) - _saved([*matrices, head], stacks, packing),
        experts=tuple(replace(one, layers=n) for one, n in found.items()),
        widest=max((_size(m)[1] for m in matrices), default=0),
    )


def is_matrix(module: nn.Module) -> bool:
    """Whether a module is one matrix product.

    A wrapper around one (an adapter) is not.
    """
    return matrix_weights(module) > 0 and not any(map(matrix_weights, module.children()))


def matrix_weights(module: nn.Module) -> int:
    """Weights of a matrix, however packed; 0 for other modules."""
    rows, columns = _size(module)
    return rows * columns


def matrix_bytes(module: nn.Module) -> int:
    """Bytes of a matrix as it is held.

    Scales and zero points are included, its bias is not.
    """
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and not is_packed(module):
        return tensor_bytes(weight)
    return sum(tensor_bytes(t) for name, t in _kept(module) if name != "bias")


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of what a tensor holds.

    Those of its parts, where it is made of several.
    """
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    size = tensor.numel() * tensor.element_size()
    if tensor.is_quantized and tensor.qscheme() == torch.per_channel_affine:
        size += tensor.q_per_channel_scales().nbytes + tensor.q_per_channel_zero_points().nbytes
    return size + _beside(tensor)


def count_parameters(module: nn.Module) -> int:
    """Parameters of a model or a part, each once.

    A packed matrix counts as many as it stands for.
    """
    total, seen = 0, set()
    for part in module.modules():
        packed = is_packed(part)
        total += matrix_weights(part) if packed else 0
        for name, weight in part.named_parameters(recurse=False):
            if id(weight) not in seen and not (packed and name != "bias"):
                seen.add(id(weight))
                total += weight.numel()
    return total


def held_bytes(module: nn.Module) -> int:
    """Bytes of all parameters, each once, and of their scales.

    What quantized matrices hold beside their parameters is included.
    """
    total, seen = 0, set()
    for part in module.modules():
        kept = _kept(part) if is_packed(part) else part.named_parameters(recurse=False)
        for _, tensor in kept:
            if id(tensor) in seen:
                continue
            if isinstance(tensor, nn.Parameter):  # others may be made for the asking
                seen.add(id(tensor))
            total += tensor_bytes(tensor)
    return total


def is_packed(module: nn.Module) -> bool:
    """Whether a matrix is held in another form than floats.

    A float tensor of another size counts as packed, too.
    """
    if not is_matrix(module):
        return False
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or hasattr(weight, "__tensor_flatten__"):
        return True
    return weight.dtype not in _PLAIN or weight.numel() != matrix_weights(module)


def _size(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a matrix; zeros of anything else."""
    for names in _SIZES:
        rows, columns = map(vars(module).get, names)  # getattr of a module takes ten times as long
        if isinstance(rows, int) and isinstance(columns, int):
            return rows, columns
    return 0, 0


def _kept(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a packed matrix: parameters, buffers, or those of a packed object."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if callable(weight) and not isinstance(weight, Tensor):  # torch.ao.quantization
        yield "weight", weight()
        if callable(bias) and bias() is not None:
            yield "bias", bias()
    scales = getattr(getattr(module, "state", None), "SCB", None)
    if isinstance(scales, Tensor):  # bitsandbytes moves them here at the first pass
        yield "scales", scales


def _beside(tensor: Tensor) -> int:
    """Bytes of the scales that bitsandbytes hangs on a weight."""
    scales = getattr(tensor, "SCB", None)
    total = scales.nbytes if isinstance(scales, Tensor) else 0
    state = getattr(tensor, "quant_state", None)
    while state is not None:  # scales may be quantized in their turn
        total += sum(t.nbytes for t in vars(state).values() if isinstance(t, Tensor))
        state = getattr(state, "state2", None)
    return total


def _loose(module: nn.Module) -> Iterator[Tensor]:
    """Matrices that are no modules of their own: of routers, and stacks that all tokens pass."""
    if matrix_weights(module) or isinstance(module, _CONVOLUTIONS):
        return
    for weight in module.parameters(recurse=False):
        if is_router_weight(module, weight) or (weight.dim() == 3 and min(weight.shape) > 1):
            yield weight


def _experts(stack: Stack, packing: Packing) -> Experts:
    """The experts of one layer."""
    matrices = [m for m in stack.module.modules() if is_matrix(m)]
    weights = sum(map(matrix_weights, matrices)) // stack.number
    nbytes = sum(map(packing.matrix, matrices)) / stack.number
    for name in stack.tensors:
        rows = stack.rows(name)
        weights += stack.weights(name) // rows
        nbytes += packing.stacked(stack, name) / rows
    return Experts(stack.number, stack.chosen, weights, nbytes)


def _saved(matrices: list[nn.Module], stacks: list[Stack], packing: Packing) -> int:
    """Bytes that a packing takes less than what is held now."""
    if packing is AS_HELD:
        return 0
    inside = [m for stack in stacks for m in stack.module.modules() if is_matrix(m)]
    saved = sum(matrix_bytes(m) - packing.matrix(m) for m in (*matrices, *inside))
    for stack in stacks:
        saved += sum(tensor_bytes(t) - packing.stacked(stack, n) for n, t in stack.tensors.items())
    return saved


def _parameters(stack: Stack) -> tuple[int, int]:
    """Parameters of all experts of a layer, biases included, and of those that a token passes."""
    total = passed = 0
    for name, weight in stack.module.named_parameters(recurse=False):
        n, rows = weight.numel(), stack.number
        if name in stack.tensors:
            n, rows = stack.weights(name), stack.rows(name)
        total += n
        passed += stack.chosen * n // rows
    inside = sum(map(count_parameters, stack.module.children()))
    return total + inside, passed + stack.chosen * inside // stack.number
