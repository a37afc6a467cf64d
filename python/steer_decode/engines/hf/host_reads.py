"""Whether a call waits for a number of the device.

No CUDA graph can hold such a call. Found out by running it: what a model's code does with its
tensors cannot be read off its config. A mixture of experts may ask which experts were chosen, RoPE
may ask how long the text is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_INDEXED = {"aten::index": 1, "aten::index_put": 1, "aten::index_put_": 1}  # place of the indices
_COPIES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")


def host_reads(call: Callable[[], object]) -> list[str]:
    """Run ``call`` and name the operators that it waits for.

    The host has to know their results. The names are in order. An operator is told by what it is
    and not by how long it waits, so the answer is the same on any device; but for copies from one
    device to another, which only happen where there are two.
    """
    mode = _Watch()
    with mode:
        call()
    return list(dict.fromkeys(mode.found))


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # in inference mode an operator made of others comes whole
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
            if _reads(func, args, result):
                self.found.append(str(func))
        return result


def _reads(func: Any, args: tuple[Any, ...], result: object) -> bool:
    name = func._schema.name
    if name in _INDEXED:
        return _counts_a_mask(args[_INDEXED[name]], args[2] if len(args) > 2 else None)
    if name in _COPIES:
        return len({x.device.type for x in (*args, result) if isinstance(x, Tensor)}) > 1
    return bool(_TAGS & set(func.tags))


def _counts_a_mask(indices: Any, values: Any) -> bool:
    """``x[mask]``, or ``x[mask] = values``; integers, or one value, need no count of the mask."""
    masks = [i for i in indices if i is not None and i.dtype in (torch.bool, torch.uint8)]
    return bool(masks) and not (isinstance(values, Tensor) and values.numel() == 1)
