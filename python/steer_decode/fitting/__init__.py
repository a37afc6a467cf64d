"""Fits and training of what routers read from files.

A pair's own answers are what they are fitted to.
"""

from __future__ import annotations

from .logistic import fit_corea, fit_ecotab
from .policy_gradient import train
from .questions import CheckedPrompt
from .training import Training

__all__ = ["CheckedPrompt", "Training", "fit_corea", "fit_ecotab", "train"]
