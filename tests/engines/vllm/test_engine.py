"""The contract, kept over a server; and what a server cannot be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from engines.contract import EngineContract
from steer_decode import Pair, SteerError
from steer_decode.core.requests import Draw, Question
from steer_decode.core.transcript import Writer
from steer_decode.engines.base import Later
from steer_decode.engines.vllm.engine import VllmEngine
from steer_decode.models.vllm_pair import VllmPair
from support.reference_loop import next_logits
from support.stub_vllm import StubVllm


class TestVllm(EngineContract):
    acts = ("write", "write", "other", "cut", "look", "anew")

    @pytest.fixture
    def pair(self, here: Pair, there: VllmPair, stubs: dict[Writer, StubVllm]) -> Pair:
        self.there, self.stub = there, stubs["large"]
        return here

    def engine(self, pair: Pair, part: int | None = None) -> VllmEngine:
        return self.there.engines()["large"]

    def expected(self, pair: Pair, ids: Sequence[int]) -> Draw:
        logits = next_logits(pair, "large", list(ids))
        return Draw(int(logits.argmax()), float(logits.max()))

    def log_prob(self, pair: Pair, ids: Sequence[int], token: int) -> float:
        return float(next_logits(pair, "large", list(ids)).log_softmax(-1)[token])

    def test_a_draft_is_read_token_by_token(self, pair: Pair) -> None:
        engine, _ = self.opened(pair, [5])
        (error,) = engine.read([0], [1])
        assert "log-probabilities of what another model wrote cannot be had" in str(error)

    def test_drafts_stay_up_to_the_first_that_is_wrong(self, pair: Pair) -> None:
        engine, _ = self.opened(pair, [5])
        (error,) = engine.verify([0])
        assert "the verification of drafts cannot be had of the large model" in str(error)

    def test_a_question_is_answered_and_forgotten(self, pair: Pair) -> None:
        engine, _ = self.opened(pair, [5])
        (error,) = engine.ask([0], Question((5,), (2, 9)))
        assert isinstance(error, SteerError)
        assert self.stub.url in str(error)

    def test_long_prompts_are_read_in_parts(self, pair: Pair) -> None:
        """A server reads them so by itself; here nobody waits for a row that is late."""
        engine, (late, early) = self.opened(pair, [60, 4])
        self.stub.held.clear()
        plain: Any = engine._engine
        assert isinstance(plain.write([0])[0], Later)
        self.stub.held.set()
        self.right(pair, early, *engine.write([1]))
        self.right(pair, late, *engine.write([0]))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("log_probs", 3, "log_probs cannot be had of the large model 'large' at http"),
        ("signal", "entropy", "signal 'entropy' needs the gate inside the server"),
    ],
)
def test_a_row_that_wants_more_fails_and_no_other(
    here: Pair, there: VllmPair, name: str, value: Any, said: str
) -> None:
    from steer_decode.core.signals import SIGNALS
    from support.patient import Patient
    from support.rows import PlainRow

    rows = [PlainRow(here, [4, 5, 6]), PlainRow(here, [4, 5, 7])]
    setattr(rows[0], name, SIGNALS[value] if name == "signal" else value)
    engine = Patient(there.engines()["large"])
    for i, row in enumerate(rows):
        engine.open(i, row)
    error, drawn = engine.write([0, 1])
    assert said in str(error)
    assert drawn[0].token == int(next_logits(here, "large", [4, 5, 7]).argmax())
