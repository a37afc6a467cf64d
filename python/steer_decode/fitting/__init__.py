"""What ``steer train-router`` does: routers that are fitted or trained on a pair's own answers."""

from __future__ import annotations

from .logistic import fit_corea, fit_ecotab
from .policy_gradient import Training, train
from .questions import Task

__all__ = ["Task", "Training", "fit_corea", "fit_ecotab", "train"]
