"""``steer export-generate``: a folder for `generate` of transformers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from ..errors import SteerError
from ..util.files import write_whole
from . import say

CODE = '''"""Routed decoding: a small and a large model write one answer (steer-kernels)."""

from steer_decode.decode.hf_generate.exported import generate

__all__ = ["generate"]
'''

README = """---
library_name: transformers
tags:
- custom_generate
---

# Routed decoding

A small and a large model write one answer. `generate` of the small model is told this folder:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen3-0.6B")
small = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")
inputs = tokenizer("What is 12 times 12?", return_tensors="pt")
out = small.generate(
    **inputs,
    custom_generate="PATH OR ID OF THIS FOLDER",
    trust_remote_code=True,
    large_model="Qwen/Qwen3-8B",
    router="speculative:k=auto",
    max_new_tokens=200,
)
```

`large_model` is a model, a hub id or a folder; `router` is any of steer-kernels, by default
`speculative:k=auto`, whose answers are the large model's own. Needs `pip install steer-kernels`.
"""


def export_generate(
    folder: Annotated[Path, typer.Argument(help="Where the folder is made.")],
    force: Annotated[
        bool, typer.Option("--force", help="Write over files that are there.")
    ] = False,
) -> None:
    """Make a `custom_generate` folder for transformers.

    `model.generate(..., custom_generate=FOLDER, trust_remote_code=True, large_model=ID)` then
    answers with both models. The folder may lie on a disk or on a hub; it calls this package.

    Examples:

    - `steer export-generate routed`
    """
    try:
        needed = f"steer-kernels>={version('steer-kernels')}\n"
    except PackageNotFoundError:
        needed = "steer-kernels\n"
    files = {
        folder / "custom_generate" / "generate.py": CODE,
        folder / "custom_generate" / "requirements.txt": needed,
        folder / "README.md": README,
    }
    there = [file for file in files if file.exists()]
    if there and not force:
        raise SteerError(f"{there[0]} is there already: choose another folder, or add --force")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    say.note(f"{folder} is made; its README.md says how to use it")
