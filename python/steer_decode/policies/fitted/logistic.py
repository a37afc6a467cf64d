"""Fitted numbers of a router: logistic maps, their fit, and the JSON file they are saved in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ...core.signals import SIGNALS
from ...errors import SteerError
from ...models.pair import Pair
from ...util import documents
from .calibration import write_whole

VERSION = 1
SHIPPED = Path(__file__).parents[2] / "demo" / "routers"  # of the demo pair


def path_setting(path: str) -> str:
    """The setting that names a file of parameters; nothing for one that comes with the package."""
    return "" if Path(path).parent == SHIPPED else f":path={path}"


@dataclass(frozen=True)
class Logistic:
    """``x`` to a probability: 1 / (1 + exp(-(slope x + intercept)))."""

    slope: float
    intercept: float

    def __call__(self, x: float) -> float:
        z = self.slope * x + self.intercept
        return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def noisy_or(risks: Sequence[float]) -> float:
    """Probability that one of several independent causes acts: 1 - product of (1 - risk)."""
    return 1 - math.prod(1 - risk for risk in risks)


def fit_noisy_or(
    inputs: Sequence[Sequence[float]], labels: Sequence[bool], ridge: float = 1e-2
) -> list[Logistic]:
    """One logistic map a column, by maximum likelihood of the labels under their Noisy-OR.

    With one column this is plain logistic regression (Platt scaling). A NaN stands for a cause that
    is absent from a sample. ``ridge`` holds the slopes of separable data finite; it acts on
    columns of unit spread.

    Raises:
        SteerError: fewer than ten samples, or labels that are all alike.
    """
    y = torch.tensor(labels, dtype=torch.float64)
    if len(y) < 10 or bool((y == y[0]).all()):
        raise SteerError(
            f"cannot fit {len(y)} labels, {int(y.sum())} of them true: "
            "at least ten are needed, and both kinds; use more prompts"
        )
    x = torch.tensor(inputs, dtype=torch.float64).reshape(len(y), -1)
    absent = x.isnan()
    mean = x.nanmean(0)
    spread = ((x - mean) ** 2).nanmean(0).sqrt().clamp_min(1e-9)
    z = ((x - mean) / spread).nan_to_num(0.0)
    weights = torch.zeros(2, z.shape[1], dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        weights[1] = -1.0
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        # log(1 - sigmoid(a)) = -softplus(a); their sum is the log-probability that nothing acts.
        calm = -torch.nn.functional.softplus(z * weights[0] + weights[1])
        quiet = calm.masked_fill(absent, 0.0).sum(1).clamp_max(-1e-12)
        likelihood = y * torch.log(-torch.expm1(quiet)) + (1 - y) * quiet
        value = -likelihood.mean() + ridge * (weights[0] ** 2).mean()
        value.backward()
        return value

    optimiser.step(loss)
    slopes = weights[0].detach() / spread
    intercepts = weights[1].detach() - slopes * mean
    pairs = zip(slopes.tolist(), intercepts.tolist(), strict=True)
    return [Logistic(slope, intercept) for slope, intercept in pairs]


@dataclass(frozen=True)
class Parameters:
    """What was fitted for one pair and one kind of router.

    Attributes:
        kind: name of the router.
        pair: fingerprint of the pair.
        maps: logistic maps by name.
        settings: whatever else the router goes by; and for the reader, how it was fitted.
    """

    kind: str
    pair: str
    maps: Mapping[str, Logistic]
    settings: Mapping[str, object] = field(default_factory=dict)

    def check(self, pair: Pair, source: str) -> None:
        """Refuses what was fitted for another pair."""
        if self.pair != pair.fingerprint:
            raise SteerError(
                f"router parameters {source!r} were fitted for another pair ({self.pair}, this "
                f"one is {pair.fingerprint}): make some with `steer train-router {self.kind}`"
            )

    def save(self, path: str | Path) -> None:
        """Writes JSON through a temporary file and a rename."""
        write_whole(Path(path), json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path, kind: str) -> Parameters:
        """Reads what :meth:`save` wrote.

        Raises:
            SteerError: no such file, or not parameters of a router of this kind.
        """
        return documents.read(
            path,
            "router parameters",
            lambda value: cls(**_file(kind)(value)),
            f"holds no parameters of router {kind!r}",
            f"make some with `steer train-router {kind}`",
        )


_NUMBER = documents.number()
_MAP = documents.record({"slope": _NUMBER, "intercept": _NUMBER})
# What each kind of router looks up in its file.
_MAPS = {"ecotab": ("table", "text"), "corea": ("answer",)}
_SETTINGS = {
    "corea": {
        "signal": documents.one_of(SIGNALS),
        "over": documents.one_of(("mean", "min", "last", "first")),
    }
}


def _file(kind: str) -> documents.Check:
    needed = dict.fromkeys(_MAPS.get(kind, ()), _map)
    record = documents.record(
        {
            "kind": documents.one_of((kind,)),
            "pair": documents.text,
            "maps": documents.record(needed) if needed else documents.mapped(_map),
            "settings": documents.record(_SETTINGS.get(kind, {}), others="kept"),
        },
        others="dropped",
    )
    return documents.versioned(VERSION, record)


def _map(value: object) -> Logistic:
    return Logistic(**_MAP(value))
