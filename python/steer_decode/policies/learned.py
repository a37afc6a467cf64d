"""Learned routers: a small network over confidence features decides.

It says who writes the next step. Two ways to train one, both in ``steer_decode.fitting``:

``policy-guided``, after "Policy-Guided Stepwise Model Routing" (arXiv 2605.06116). Faithful, as far
as the abstract tells: a small control policy over confidence features, trained by policy gradient
under a constraint on cost, with threshold calibration for the trade-off. Its actions are thresholds
on the entropy of the small model's next token. Ours: features, sizes, and the gradient, which is
taken of the probability of the route (the sum over the thresholds that lead to it), not of the one
threshold that was drawn: the same in expectation, with less noise.

``roro``, after "Rubric-Guided Process Reward for Stepwise Model Routing" (arXiv 2605.29310).
Faithful: process rewards of single steps, from a judge, are combined with the outcome reward, and
the router is optimised with group-relative advantages (GRPO). Not faithful: there is no trained
Rubricor and no rubric; the judge is any function of a step and what stands before it, by default
the probability that the large model gives the step; one gradient step a batch, so that GRPO's
clipping never acts; advantages are divided by the spread over the batch, not over the question.

At run time neither draws: a step goes to the large model where its probability of that is above a
cut, which was calibrated to a target share of large-model tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from ..core.signals import SIGNALS
from ..core.transcript import Writer
from ..errors import SteerError
from ..models.two_models import TwoModels
from ..util.checks import fraction, loaded
from .base import Policy, StepStart
from .features import read_features
from .fitted.file import SHIPPED, path_setting
from .fitted.network import KINDS, TrainedNetwork


class Learned(Policy):
    """Large model where a network gives it enough probability.

    The probability has to be above the cut.

    Args:
        path: a file of ``steer train-router``; "policy-guided" or "roro" are those that come with
            the package, for the demo pair; or a :class:`TrainedNetwork`.
        cut: in place of the calibrated one; lower gives more to the large model.

    Raises:
        SteerError: no path, or a file that is no learned router; a cut out of [0, 1].
    """

    name: ClassVar[str] = "learned"
    shipped: ClassVar[str] = "policy-guided.safetensors"
    signal = SIGNALS["entropy"]
    looks_ahead = True

    def __init__(
        self, path: str | Path | TrainedNetwork | None = None, cut: float | None = None
    ) -> None:
        if path is None:
            raise SteerError("learned needs path=FILE, made by `steer train-router`")
        self._cut = None if cut is None else fraction("cut", cut)
        if isinstance(path, str) and path in KINDS:
            path = SHIPPED / f"{path}.safetensors"
        self.router, self._path = loaded("path", path, TrainedNetwork, TrainedNetwork.load)
        self.cut = float(self.router.network.cut) if self._cut is None else self._cut
        self.fitted = self.router.digest

    def check(self, pair: TwoModels) -> None:
        self.router.check(pair, self._path)

    def before_step(self, start: StepStart) -> Writer:
        return "large" if self.large_probability(start) > self.cut else "small"

    @torch.inference_mode()
    def large_probability(self, start: StepStart) -> float:
        network = self.router.network
        x = torch.tensor([read_features(start, network.features)])
        return float(network(x)[0, 1].exp())

    def __str__(self) -> str:
        path = (
            f":path={self.router.kind}" if not path_setting(self._path) else f":path={self._path}"
        )
        return f"{self.name}{path}" + ("" if self._cut is None else f":cut={self._cut:g}")
