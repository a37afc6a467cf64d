"""The ``steer`` command in this process, and tiny models on disk for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from steer_decode.cli import app
from support.tiny import make_model, make_tokenizer
from typer.testing import CliRunner

PROMPT = "w1w2 w3"


def save(folder: Path, seed: int, words: list[str] | None = None, *, broken: bool = False) -> str:
    """A tiny model that never ends by itself; a broken one returns NaN."""
    model = make_model("llama", seed)
    with torch.no_grad():
        model.get_output_embeddings().weight[1] = 0
        if broken:
            model.get_output_embeddings().weight.fill_(float("nan"))
    model.save_pretrained(folder)
    make_tokenizer(words).save_pretrained(folder)
    return str(folder)


def steer(*args: object, **options: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in args], **options)


def refused(*args: object, **options: Any) -> str:
    """Runs the command, checks that it ends with status 2 and one sentence; returns that."""
    result = steer(*args, **options)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("steer: ")
    return str(lines[0])
