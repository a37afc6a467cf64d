"""Pairs with a chat template, in memory and on disk, and what a chat has kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from steer_decode import Pair
from steer_decode.core.transcript import WRITERS
from support.tiny import make_model, make_pair, make_tokenizer

CHAT = (
    "{% for m in messages %}{{ {'system': 'w1', 'user': 'w0', 'assistant': 'w2'}[m.role] }} "
    "{{ m.content }}<eos>{% endfor %}w2 "
)


def chat_pair(family: str = "llama", seed: int = 0, template: str = CHAT, **sizes: int) -> Pair:
    """A tiny pair with a chat template; it never writes <unk>, which no text can show."""
    pair = make_pair(family, seed, **sizes)
    with torch.no_grad():
        for writer in WRITERS:
            pair.model(writer).get_output_embeddings().weight[0] = 0
    pair.tokenizer.chat_template = template
    return pair


ASK = "w5 w6w7"


def save_chat_pair(folder: Path, template: str | None = CHAT, broken: bool = False) -> list[str]:
    """Writes a pair that never ends an answer by itself; returns the options that name it."""
    paths = folder / "small", folder / "large"
    for seed, path in enumerate(paths):
        model = make_model("llama", seed, positions=16384)
        with torch.no_grad():
            model.get_output_embeddings().weight[:2] = float("nan") if broken else 0
        model.save_pretrained(path)
        tokenizer = make_tokenizer()
        tokenizer.chat_template = template
        tokenizer.save_pretrained(path)
    return ["--small", str(paths[0]), "--large", str(paths[1])]


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
