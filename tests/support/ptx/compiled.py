"""PTX of the Triton kernels; run as a script, it compiles them where no GPU need be.

A process of its own, for where Triton interprets it does not compile: see ahead_of_time.py.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support.ahead_of_time import serve


def compile_kernel(
    module: str, name: str, types: dict[str, str], constants: dict[str, Any], aligned: list[str],
    options: dict[str, Any], capability: int, machine_code: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Compile as a launch with these arguments would.

    Args:
        types: of the arguments, by name in their order, as "*bf16" or "i32".
        aligned: pointers that are multiples of 16.
        machine_code: say too what ptxas makes of it.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(module), name)
    free = {p.name for p in kernel.params if p.do_not_specialize_on_alignment}
    names = kernel.arg_names
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned if n not in free}
    signature = {n: types.get(n, "constexpr") for n in names}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    found = {"ptx": made.asm["ptx"], "shared": made.metadata.shared}
    if machine_code:
        tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(made.asm["cubin"])
            file.flush()
            found["sass"] = _said(tools / "nvdisasm", "-c", file.name)
            usage = _said(tools / "cuobjdump", "-res-usage", file.name)
        for what in ("registers", "stack"):
            found[what] = int(re.search(rf"{what[:3].upper()}\w*:(\d+)", usage)[1])
    return found


def _said(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    serve(compile_kernel)
