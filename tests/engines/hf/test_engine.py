"""The contract, kept by a model of transformers, against full passes from scratch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from engines.contract import EngineContract
from steer_decode import Pair
from steer_decode.core.requests import Draw
from steer_decode.core.transcript import WRITERS
from steer_decode.decode.routing import open_engines
from steer_decode.engines.hf.engine import HfEngine
from support.reference_loop import next_logits
from support.tiny import make_pair


@pytest.mark.parametrize(
    ("family", "ahead"), [("llama", 1), ("llama", 4), ("gemma3_text", 1), ("gpt_neox", 4)]
)
class TestHf(EngineContract):
    @pytest.fixture
    def pair(self, family: str, ahead: int) -> Pair:
        pair = make_pair(family, 0)
        self.ahead = ahead
        return pair

    def engine(self, pair: Pair, part: int | None = None) -> HfEngine:
        ahead = dict.fromkeys(WRITERS, self.ahead)
        return open_engines(pair, ahead, pair.max_length, part=part)["large"]

    def expected(self, pair: Pair, ids: Sequence[int]) -> Draw:
        logits = next_logits(pair, "large", list(ids))
        return Draw(int(logits.argmax()), float(logits.max()))

    def log_prob(self, pair: Pair, ids: Sequence[int], token: int) -> float:
        return float(next_logits(pair, "large", list(ids)).log_softmax(-1)[token])
