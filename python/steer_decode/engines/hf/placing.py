"""Which class loads a model, and where it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)

_SOURCE = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "trust_remote_code")


def model_class(source: str | Path, options: dict[str, Any]) -> Any:
    """The auto class of transformers for a model.

    That of causal models, or of image-text models.

    Args:
        source: as ``from_pretrained`` takes it. What cannot be read is left to that to say.
        options: of ``from_pretrained``.
    """
    where = {name: options[name] for name in _SOURCE if name in options}
    where.setdefault("trust_remote_code", False)  # or transformers would ask at a terminal
    try:
        kind = type(AutoConfig.from_pretrained(str(source), **where))
    except Exception:
        return AutoModelForCausalLM
    images = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if images and kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def placed(model: PreTrainedModel, device: torch.device | str | None) -> PreTrainedModel:
    """``model`` on ``device``, where it may be moved.

    It stays where it is if ``device`` is None or its weights have places of their own. Those of a
    model with a device map stay where the map says, on several devices perhaps; those of a
    quantized one stay where they were quantized.
    """
    spread = getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False)
    if device is None or spread:
        return model
    moved: PreTrainedModel = model.to(device)
    return moved


def is_spread(model: torch.nn.Module) -> bool:
    """Whether a model's weights lie on several devices."""
    return len({weight.device for weight in model.parameters()}) > 1
