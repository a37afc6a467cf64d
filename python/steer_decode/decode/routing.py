"""What the answers of one run share, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.boundary import StepBoundary
from ..core.signals import Signal
from ..core.transcript import WRITERS, Writer
from ..engines.base import Engine
from ..engines.hf.budget import Budget
from ..engines.hf.engine import HfEngine
from ..engines.hf.scaled_lane import lane_of
from ..models.pair import Pair, loaded
from ..models.two_models import TwoModels
from ..policies import Policy
from .elsewhere import TOLD, check_served, looks_by_gate


@dataclass(frozen=True, eq=False)
class Routing:
    """Two models, a policy, and where steps and answers end.

    Attributes:
        pair: the two models.
        policy: who writes next; each run starts it.
        boundary: where a step closes.
        ends: ids that end an answer.
        ahead: for each model, tokens between two looks of the host.
        own_boundary: the caller chose the boundary, so no file changes it.
        overlap: the large model works while the small one writes.
    """

    pair: TwoModels
    policy: Policy
    boundary: StepBoundary
    ends: frozenset[int]
    ahead: Mapping[Writer, int]
    own_boundary: bool = False
    overlap: bool = False

    def __post_init__(self) -> None:
        if self.pair.elsewhere:
            check_served(self.policy, self.pair.gated)

    @property
    def signal(self) -> Signal:
        """What is read of each token that is written.

        It is the policy's signal, or what servers tell, where a policy only looks ahead.
        """
        return TOLD if self.told else self.policy.signal

    @property
    def told(self) -> bool:
        """Whether the gate looks ahead for the policy."""
        return self.pair.elsewhere and looks_by_gate(self.policy, self.pair.gated)


def open_engines(
    pair: TwoModels, ahead: Mapping[Writer, int], limit: int, rows: int = 1, part: int | None = None
) -> Mapping[Writer, Engine]:
    """Make an engine for each model, without rows as yet.

    Args:
        pair: the two models.
        ahead: tokens that each writes between two looks of the host.
        limit: most tokens of a transcript.
        rows: that are expected; the caches grow beyond.
        part: most tokens of a prompt that one call reads while others wait; by default a prompt is
            read whole. Engines elsewhere see to memory and to long prompts by themselves.

    Raises:
        SteerError: as :attr:`Pair.serving`.
    """
    return pair.engines() or hf_engines(loaded(pair), ahead, limit, rows, part)


def hf_engines(
    pair: Pair, ahead: Mapping[Writer, int], limit: int, rows: int = 1, part: int | None = None
) -> dict[Writer, HfEngine]:
    """The same over two models that are loaded here."""
    budget, engines = Budget(), {}
    for writer in WRITERS:
        lane = lane_of(
            pair.model(writer), pair.shapes[writer], rows, limit, budget, pair.serving[writer]
        )
        engines[writer] = HfEngine(writer, lane, pair.vocab_size, ahead[writer], part)
    return engines
