"""Rows for engines without an answer behind them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from steer_decode import Pair
from steer_decode.core.drafting import Drafting
from steer_decode.core.gate_rule import GateRule
from steer_decode.core.requests import Draw, Hooks
from steer_decode.core.sampling import Sampling
from steer_decode.core.signals import SIGNALS, Signal
from steer_decode.core.transcript import Transcript, Writer


class PlainRow:
    """A text that is written to; every token belongs to one step that never closes."""

    def __init__(
        self, pair: Pair, ids: Sequence[int], signal: Signal = SIGNALS["max-logit"]
    ) -> None:
        self.transcript = Transcript(ids)
        self.sampling = Sampling()
        self.signal = signal
        self.boundary = pair.boundary
        self.ends = pair.eos_ids
        self.hooks = Hooks()
        self.room = 50
        self.place = "token 0 of step 0"
        self.step_ids: list[int] = []
        self.step_index = 0
        self.said_something = False
        self.drafts: Sequence[Draw] = []
        self.drafting: Drafting | None = None
        self.proposes = False
        self.log_probs: int | None = None
        self._random = random.Random(0)

    def gate_rule(self, writer: Writer) -> GateRule | None:
        return None

    def uniforms(self, n: int) -> list[float]:
        return [self._random.random() for _ in range(n)]
