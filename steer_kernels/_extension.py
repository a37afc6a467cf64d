"""The compiled part of the package, and what it is.

Environment:
    STEER_KERNELS_BACKEND  "auto" (default), or "reference" to leave the extension unloaded and run
                           every operator on the torch reference.
    STEER_CPU_ISA          "portable", "avx2", "avx512" or "neon": instruction set of the CPU
                           kernels, read at the first call; by default the best one of this machine.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import struct
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

__version__ = "0.1.0"

_BACKENDS = ("auto", "reference")


def _check_whole(library: Path) -> None:
    """Raise ImportError if an ELF file ends before its section table, e.g. after a broken copy.

    Mapping such a file kills the process with SIGBUS, so the loader must not see it.
    """
    with library.open("rb") as file:
        header = file.read(64)
        size = os.fstat(file.fileno()).st_size
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":  # not 64-bit little-endian ELF
        return
    section_table, entry_size, entries = struct.unpack_from("<40xQ10xHH", header)
    if section_table + entry_size * entries > size:
        raise ImportError(f"{library} is cut short at {size} bytes")


def _load() -> tuple[ModuleType | None, str]:
    """The extension, or None and the reason why there is none."""
    wanted = os.environ.get("STEER_KERNELS_BACKEND", "auto").strip().lower() or "auto"
    if wanted not in _BACKENDS:
        warnings.warn(
            f"STEER_KERNELS_BACKEND={wanted!r} is not one of {', '.join(_BACKENDS)}; using auto.",
            RuntimeWarning,
            stacklevel=2,
        )
    if wanted == "reference":
        return None, "STEER_KERNELS_BACKEND=reference"
    spec = importlib.util.find_spec("steer_kernels._C")
    try:
        if spec is not None and spec.origin is not None:
            _check_whole(Path(spec.origin))
        return importlib.import_module("steer_kernels._C"), ""
    except ModuleNotFoundError:
        reason = "it was not built"
    except Exception as error:  # a damaged file or a binary for another machine, seen by dlopen
        reason = f"it does not load: {str(error).strip()}"
    warnings.warn(
        f"The C++ extension of steer_kernels is not used because {reason}; operators run on the "
        "much slower torch reference until the package is reinstalled "
        "(STEER_KERNELS_BACKEND=reference silences this).",
        RuntimeWarning,
        stacklevel=2,
    )
    return None, reason


def _load_cuda() -> tuple[ModuleType | None, str]:
    """The CUDA part, whose kernels register when it loads; None and a reason if it does not.

    The reason is empty where the part was not built, and where its operators are not wanted: their
    schemas are the extension's.
    """
    spec = importlib.util.find_spec("steer_kernels._C_cuda")
    if extension is None or spec is None:
        return None, ""
    try:
        if spec.origin is not None:
            _check_whole(Path(spec.origin))
        return importlib.import_module("steer_kernels._C_cuda"), ""
    except Exception as error:
        return None, f"the CUDA part does not load: {str(error).strip()}"


extension, _reason = _load()
cuda_extension, _cuda_reason = _load_cuda()
_follower: ModuleType | None = None
_chosen_isa: str | None = None


def supported_cpu_isas() -> list[str]:
    """Instruction sets that this machine runs, the best last.

    They are those of the CPU kernels. Empty where the torch reference stands in for the extension.
    """
    return list(extension.supported_cpu_isas()) if extension else []


def cpu_isa() -> str | None:
    """The instruction set in use.

    None where the torch reference stands in.

    Raises:
        ValueError: STEER_CPU_ISA is unknown, or not available on this machine.
    """
    return extension.cpu_isa() if extension else None


def set_cpu_isa(name: str | None) -> None:
    """Use one instruction set for the rest of the process.

    None goes back to the default.

    Raises:
        ValueError: `name` is unknown, or not available on this machine.
    """
    global _chosen_isa
    if extension:
        extension.set_cpu_isa(name or "")
        _chosen_isa = name
        if _follower is not None:
            _follower.set_cpu_isa(name or "")
    elif name:
        raise ValueError(f"name={name!r}: no CPU kernels are loaded because {_reason}")


def follow_isa(module: ModuleType | None) -> None:
    """Have another module use what `set_cpu_isa` chose.

    One with kernels of its own (steer_kernels._fast).
    """
    global _follower
    _follower = module
    if module is not None and _chosen_isa:
        module.set_cpu_isa(_chosen_isa)


def _cuda_info() -> dict[str, Any] | None:
    """What the CUDA part says of itself; None where it was not built."""
    if cuda_extension is None:
        return {"error": _cuda_reason} if _cuda_reason else None
    info = dict(cuda_extension.build_info())
    version = info.pop("cuda_version")
    return {"cuda": f"{version // 1000}.{version % 1000 // 10}", **info}


def build_info() -> dict[str, Any]:
    """What is installed and what of it is in use.

    Returns:
        A dictionary that json can write: "version"; "backend", which is "extension" or
        "reference", and "reason" for the latter; "python" and "torch" versions; "cpu_isa" and
        "supported_cpu_isas"; "compiler" and "torch_headers" of the extension; "cuda", which is
        None without the CUDA part, or its toolkit version, architectures, visible devices and
        runtime status; "fast", None or the compiler and headers of the native part of
        `steer_kernels.fast` where that is loaded; "triton", whether it is installed.
    """
    try:
        isa = cpu_isa()
    except ValueError as error:
        isa = f"error: {error}"
    return {
        "version": __version__,
        "backend": "extension" if extension else "reference",
        "reason": _reason,
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "cpu_isa": isa,
        "supported_cpu_isas": supported_cpu_isas(),
        **(extension.build_info() if extension else {}),
        "cuda": _cuda_info(),
        "fast": dict(_follower.build_info()) if _follower else None,
        "triton": importlib.util.find_spec("triton") is not None,
    }
