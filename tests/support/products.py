"""A lane of one model, and the layers that it multiplies by."""

from __future__ import annotations

from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import Transcript
from steer_decode.engines.hf.lane import Lane
from support.tiny import prompt_ids
from torch import nn
from transformers import PreTrainedModel


def lane_of(model: PreTrainedModel, length: int = 30) -> Lane:
    return Lane(model, ModelShape.of(model), [Transcript(prompt_ids(1, length))])


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if type(module) is nn.Linear]
