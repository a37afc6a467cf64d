"""The model inside a wrapper.

PEFT, torch.compile and their like wrap something around a model of transformers.
"""

from __future__ import annotations

from typing import Any


def unwrapped(model: Any) -> Any:
    """The innermost model of a wrapper.

    A wrapper's ``generate`` ends up in its ``generate``. torch.compile keeps it as
    ``_orig_mod``, parallel wrappers as ``module``, and PEFT hands it out by ``get_base_model``. A
    model without a wrapper is returned as it is.
    """
    while (inner := _inside(model)) is not None and inner is not model:
        model = inner
    return model


def _inside(model: Any) -> Any:
    modules = getattr(model, "_modules", {})
    if "_orig_mod" in modules:
        return modules["_orig_mod"]
    if callable(getattr(type(model), "get_base_model", None)):
        return model.get_base_model()
    # A model may call one of its own parts "module"; a wrapper has no other.
    return modules["module"] if list(modules) == ["module"] else None
