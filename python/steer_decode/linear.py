"""Linear layers on a CPU: by `decode_linear`, which reads at the memory's speed.

torch's matrix product of one to sixteen tokens reaches a half or a third of what the memory gives,
and of hundreds not quite what the processor does. For the time of a pass the large linear layers of the model have a ``forward`` of ours; before and
after, the model is as its user left it. Everything else that runs meanwhile, a user's own
``generate`` in another thread say, gets what it would get without: the function acts in the thread
of the pass only. Layers of other types (quantized, adapted, parametrized), or whose ``forward``
somebody has replaced already, stay as they are; hooks are called as always.
"""

from __future__ import annotations

import threading
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from steer_kernels import supported_cpu_isas

# Of a product in bfloat16: beyond, torch's is as fast, and has matrix units where there are any.
MOST_TOKENS = 64
LEAST_WEIGHTS = 16 * 1024  # of a layer; below, the call is what costs
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Whether a dispatch mode looks at operators, as FlopCounterMode does: it knows only torch's own.
watched = torch._C._len_torch_dispatch_stack
_multiply = torch.ops.steer_kernels.decode_linear.default


class _Here(threading.local):
    in_pass = False


_here = _Here()
_lock = threading.Lock()
_passes: dict[int, int] = {}  # passes under way, by the id of the model


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    weight, bias = layer.weight, layer.bias
    if torch.compiler.is_compiling():  # which makes its own of it
        return linear(x, weight, bias)
    if (
        _here.in_pass
        and x.dtype is weight.dtype
        and (x.dtype is not torch.bfloat16 or x.numel() <= MOST_TOKENS * x.shape[-1])
        and not watched()
    ):
        product: Tensor = _multiply(x, weight, bias)
        return product
    return linear(x, weight, bias)


def _served(module: nn.Module) -> bool:
    if type(module) is not nn.Linear:
        return False
    replaced = vars(module).get("forward")  # by us, in a pass of another thread?
    weight = module.weight
    return (
        (replaced is None or getattr(replaced, "__func__", None) is _forward)
        and type(weight) is nn.Parameter  # subclasses of tensors may hold anything
        and weight.layout is torch.strided
        and weight.device.type == "cpu"
        and weight.dtype in _DTYPES
        and weight.is_contiguous()
        and weight.numel() >= LEAST_WEIGHTS
    )


class DirectLinear:
    """A model whose large linear layers multiply by `decode_linear` while it is called.

    Attributes:
        device: of the model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.device = model.device
        kernel = bool(supported_cpu_isas())  # else the operator is its slow definition
        self._layers: list[tuple[dict[str, Any], MethodType]] = [
            (vars(module), MethodType(_forward, module))
            for module in (model.modules() if kernel else ())
            if _served(module)
        ]

    def __call__(self, **arguments: Any) -> Any:
        """What the model returns. Gradients and autocast are left to torch."""
        if not self._layers or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return self._model(**arguments)
        key, outer = id(self._model), _here.in_pass
        with _lock:
            _passes[key] = _passes.get(key, 0) + 1
            for attributes, forward in self._layers:
                attributes["forward"] = forward
        _here.in_pass = True
        try:
            return self._model(**arguments)
        finally:
            _here.in_pass = outer
            with _lock:
                _passes[key] -= 1
                if not _passes[key]:
                    del _passes[key]
                    for attributes, _ in self._layers:
                        attributes.pop("forward", None)
