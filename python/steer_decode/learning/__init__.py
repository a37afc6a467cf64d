"""What ``steer train-router`` does: routers that are fitted or trained on a pair's own answers."""

from __future__ import annotations

from .fits import fit_corea, fit_ecotab
from .tasks import Task
from .train import Training, train

__all__ = ["Task", "Training", "fit_corea", "fit_ecotab", "train"]
