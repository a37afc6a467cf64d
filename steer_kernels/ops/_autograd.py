"""What operators without a derivative owe to autograd.

No silent zero, and no uncounted write.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

_LIBRARY = torch.library.Library("steer_kernels", "FRAGMENT")


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether one of these carries a forward-mode derivative.

    Takes 50 ns where no `forward_ad.dual_level` is open. What is no tensor carries none.
    """
    return forward_ad._current_level >= 0 and any(
        isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in tensors
    )


def check_no_tangent(name: str, tensor: Tensor) -> None:
    if has_tangent(tensor):
        raise ValueError(
            f"{name} must not carry a forward-mode derivative: this operator has none; call it on "
            "torch.autograd.forward_ad.unpack_dual(tensor).primal"
        )


def count_writes(name: str, written: int) -> None:
    """Count an in-place operator's writes, as torch does its own.

    Every call moves the version counters of its first arguments. As those of torch's own in-place
    functions do: autograd then sees that a tensor which it saved has changed. In inference mode,
    where nothing is saved, the call goes straight to the kernel.
    """
    operator = getattr(torch.ops.steer_kernels, name).default

    def counted(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        with torch._C._AutoDispatchBelowADInplaceOrView():
            result = operator.redispatch(
                keyset & torch._C._after_ADInplaceOrView_keyset, *args, **kwargs
            )
        increment_version(args[:written])  # nothing was written where the kernel has refused
        return result

    _LIBRARY.impl(name, counted, "ADInplaceOrView", with_keyset=True)
