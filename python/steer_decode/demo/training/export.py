"""Model folders for transformers 4.57 and 5, and vLLM."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel

from . import tokenizer as demo_tokenizer


def _both_spellings(path: Path) -> None:
    """Add the keys of transformers 4 beside those of 5, which each release ignores."""
    config = json.loads(path.read_text())
    dtype = config.get("dtype", config.get("torch_dtype"))
    config["dtype"] = config["torch_dtype"] = dtype
    config.setdefault("rope_theta", config.get("rope_parameters", {}).get("rope_theta", 10000.0))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write weights (bf16), configuration and tokenizer to `folder`.

    Each file appears in one move.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    shipped = copy.deepcopy(model).to(torch.bfloat16)
    shipped.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=False,
    )
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        shipped.save_pretrained(scratch)
        _both_spellings(scratch / "config.json")
        demo_tokenizer.save(scratch)
        for path in sorted(scratch.iterdir()):
            path.chmod(0o644)
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
