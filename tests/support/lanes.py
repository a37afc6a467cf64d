"""Lanes of a pair over given transcripts, without engines."""

from __future__ import annotations

from collections.abc import Sequence

from steer_decode import Pair
from steer_decode.core.transcript import WRITERS, Transcript, Writer
from steer_decode.engines.hf.budget import Budget
from steer_decode.engines.hf.lane import Lane
from steer_decode.engines.hf.scaled_lane import lane_of


def lanes_of(pair: Pair, transcripts: Sequence[Transcript], limit: int) -> dict[Writer, Lane]:
    """A lane for each model, with one budget."""
    budget, lanes = Budget(), {}
    for writer in WRITERS:
        rows, serving = len(transcripts), pair.serving[writer]
        lane = lane_of(pair.model(writer), pair.shapes[writer], rows, limit, budget, serving)
        for row, text in enumerate(transcripts):
            lane.open(row, text)
        lanes[writer] = lane
    return lanes
