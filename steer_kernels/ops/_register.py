"""How an operator is entered with torch.

Its schema, and what runs it where.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from steer_kernels._extension import extension
from steer_kernels.ops._autograd import count_writes

SCHEMAS: dict[str, str] = {}  # of every operator that is registered, by its name


def register(
    name: str,
    schema: str,
    *,
    cpu: Callable[..., Any],
    fake: Callable[..., Any],
    cuda: Callable[..., Any] | None = None,
    written: int = 0,
) -> torch._ops.OpOverload:
    """Register an operator of the namespace steer_kernels.

    The extension has the schemas and the CPU kernels; where it is not loaded, or was built before
    the operator was written, both come from here.
    There is no autograd kernel: no operator has a derivative.

    Args:
        name: after `torch.ops.steer_kernels`.
        schema: arguments and results, as in csrc/bind/cpu.cpp.
        cpu: stands in for the CPU kernel where the extension is not loaded.
        fake: gives results without values, for tracing and for meta tensors.
        cuda: runs on CUDA tensors where the CUDA part has no kernel for them, as it was not built
            or was before there was one; None for an operator without such a stand-in.
        written: how many of its first arguments the operator writes; every call then moves their
            version counters.

    Returns:
        What calls the operator.
    """
    SCHEMAS[name] = schema
    full = f"steer_kernels::{name}"
    if extension is None or not _in_extension(name):
        torch.library.define(full, schema)
        torch.library.impl(full, "cpu", cpu)
    if cuda is not None and not has_cuda_kernel(name):
        torch.library.impl(full, "cuda", cuda)
    torch.library.register_fake(full, fake)
    if written:
        count_writes(name, written)
    return getattr(torch.ops.steer_kernels, name).default


def has_cuda_kernel(name: str) -> bool:
    """Whether something runs an operator on CUDA tensors.

    At first, whether the CUDA part does.
    """
    full = f"steer_kernels::{name}"
    return hasattr(torch.ops.steer_kernels, name) and (
        torch._C._dispatch_has_kernel_for_dispatch_key(full, "CUDA")
    )


def _in_extension(name: str) -> bool:
    """Whether the extension that is loaded has the operator.

    One that was built in the source tree stays as it was when the tree moves on. It warns then.
    """
    if hasattr(torch.ops.steer_kernels, name):
        return True
    warnings.warn(
        f"The C++ extension of steer_kernels was built before {name} was: it runs on the much "
        "slower torch reference until the package is built again (pip install -e .).",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def checked(check: Callable[..., None], compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute`, for arguments that pass `check`.

    torch.ops leads past the public function.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        check(*args, **kwargs)
        return compute(*args, **kwargs)

    return run
