"""The gate of either interface over a tiny pair, in engines that are driven by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import Pair
from steer_decode.core.transcript import WRITERS, Writer
from support.hand_engine import HandEngine, HandV1, HandV2, Logits
from support.tiny import make_pair
from support.vllm_interfaces import config, gate_v1, gate_v2

CPU = torch.device("cpu")
Make = Callable[..., HandEngine]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair("llama")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    pair.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def logits(pair: Pair) -> dict[Writer, Logits]:
    """Of either model behind ids, from scratch, and remembered."""

    def of(writer: Writer) -> Logits:
        known: dict[tuple[int, ...], torch.Tensor] = {}

        def row(ids: Sequence[int]) -> torch.Tensor:
            key = tuple(ids)
            if key not in known:
                with torch.inference_mode():
                    known[key] = pair.model(writer)(torch.tensor([key])).logits[0, -1].float()
            return known[key]

        return row

    return {writer: of(writer) for writer in WRITERS}


@pytest.fixture(params=["v1", "v2", pytest.param("v2 with drafts", marks=pytest.mark.slow)])
def make(request: pytest.FixtureRequest, tokenizer: Path) -> Make:
    """An engine by hand with the gate of the interface."""
    drafts = 3 if "drafts" in request.param else 0

    def of(logits: Logits, rows: int, seed: int = 0, **more: Any) -> HandEngine:
        columns = len(logits([3]))
        given = config(tokenizer, columns, rows, drafts)
        if request.param == "v1":
            return HandV1(gate_v1.GateV1(given, CPU, False), logits, rows, seed, **more)
        return HandV2(
            lambda states: gate_v2.GateV2(given, states),
            columns,
            logits,
            rows,
            seed,
            drafts=drafts,
            **more,
        )

    return of
