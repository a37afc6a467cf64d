"""The contract, kept by an engine without a model: it asks for nothing that only ours has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from engines.contract import EngineContract
from steer_decode import Pair
from steer_decode.core.requests import Draw
from support.scripted import ScriptedEngine, log_prob, next_token
from support.tiny import make_pair


@pytest.mark.parametrize("late", [0, 2])
class TestScripted(EngineContract):
    @pytest.fixture
    def pair(self, late: int) -> Pair:
        self.late = late
        return make_pair("llama", 0)

    def engine(self, pair: Pair, part: int | None = None) -> ScriptedEngine:
        return ScriptedEngine(
            "large", pair.vocab_size, 3, part or 10**6, late=lambda row: self.late * (row % 2)
        )

    def expected(self, pair: Pair, ids: Sequence[int]) -> Draw:
        return Draw(*next_token("large", ids, pair.vocab_size))

    def log_prob(self, pair: Pair, ids: Sequence[int], token: int) -> float:
        return log_prob("large", ids, token, pair.vocab_size)
