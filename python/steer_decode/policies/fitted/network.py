"""The network of a learned router, in a safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import SteerError
from ...util import documents
from ...util.files import check_file, reason, replacing
from ...util.text import short
from ..features import FEATURES
from .file import Fitted, Phrases

KINDS = ("policy-guided", "roro")
VERSION = "1"


class RouterNetwork(nn.Module):
    """Standardised features to the large model's probability.

    Through one hidden layer.

    Args:
        features: names, in the order of the columns.
        thresholds: on the next token's entropy, ascending, where thresholds are the actions; empty
            where the two writers are.
        hidden: width.
    """

    def __init__(
        self, features: Sequence[str], thresholds: Sequence[float] = (), hidden: int = 16
    ) -> None:
        super().__init__()
        self.features = list(features)
        self.register_buffer("mean", torch.zeros(len(self.features)))
        self.register_buffer("scale", torch.ones(len(self.features)))
        self.register_buffer("thresholds", torch.tensor(list(thresholds)))
        self.register_buffer("cut", torch.tensor(0.5))
        self.body = nn.Linear(len(self.features), hidden)
        self.head = nn.Linear(hidden, len(thresholds) or 2)
        nn.init.zeros_(self.head.weight)  # every action alike at first
        nn.init.zeros_(self.head.bias)

    mean: Tensor
    scale: Tensor
    thresholds: Tensor
    cut: Tensor

    def standardise(self, x: Tensor) -> None:
        """Take mean and spread from features [n, F]."""
        self.mean.copy_(x.mean(0))
        self.scale.copy_(x.std(0).clamp_min(1e-3))

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities [n, 2] of small and large.

        From features [n, F].
        """
        hidden = torch.tanh(self.body((x - self.mean) / self.scale))
        actions = self.head(hidden).log_softmax(-1)
        if not len(self.thresholds):
            return actions
        # The large model writes where the entropy is above the threshold that is chosen.
        entropy = x[:, self.features.index("first-token-entropy"), None]
        large = entropy > self.thresholds
        never = torch.full_like(actions, -30.0)
        routes = [torch.where(chosen, actions, never).logsumexp(-1) for chosen in (~large, large)]
        return torch.stack(routes, -1)


@dataclass(frozen=True, eq=False)
class TrainedNetwork(Fitted):
    """A trained network, with its pair, in a safetensors file.

    It holds how it was trained as well.
    """

    kind: str
    pair: str
    network: RouterNetwork
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A digest of the weights.

        It tells one training from another.
        """
        digest = hashlib.sha256()
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + weight.numpy().tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def phrases(cls, kind: str) -> Phrases:
        way = "make one with `steer train-router`"
        return Phrases("learned router", "was trained", "is not a learned router", way)

    def save(self, path: str | Path) -> None:
        """Write safetensors through a temporary file and a rename.

        Raises:
            SteerError: it cannot be written.
        """
        metadata = {
            "version": VERSION,
            "kind": self.kind,
            "pair": self.pair,
            "features": json.dumps(self.network.features),
            "settings": json.dumps(self.settings),
        }
        tensors = {k: v.contiguous() for k, v in self.network.state_dict().items()}
        with replacing(Path(path)) as place:
            save_file(tensors, place, metadata)

    @classmethod
    def load(cls, path: str | Path) -> TrainedNetwork:
        """Read what :meth:`save` wrote.

        Raises:
            SteerError: no such file, not a learned router, or features that do not exist.
        """
        phrases = cls.phrases("")
        check_file(path, "router")
        try:
            with safe_open(str(path), "pt") as file:
                about = file.metadata() or {}
                if about["version"] != VERSION:
                    raise documents.Fault(f"version {short(about['version'])}, expected {VERSION}")
                about = _ABOUT(about)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(
                about["kind"],
                about["pair"],
                _network(about["features"], tensors),
                about["settings"],
            )
        except OSError as error:
            raise SteerError(f"cannot read router {str(path)!r}: {reason(error)}") from error
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise SteerError(
                f"{str(path)!r} {phrases.wrong} ({_said(error)}): {phrases.way}"
            ) from error


def _said(error: Exception) -> str:
    kind = "" if isinstance(error, documents.Fault) else f"{type(error).__name__}: "
    return f"{kind}{error}"


def _in_json(check: documents.Check) -> documents.Check:
    return lambda value: check(documents.parse(documents.text(value)))


def _feature(value: object) -> str:
    name = documents.text(value)
    if name not in FEATURES:
        raise documents.Fault(f"unknown feature {short(name)}")
    return name


_ABOUT = documents.record(
    {
        "kind": documents.one_of(KINDS),
        "pair": documents.text,
        "features": _in_json(documents.listed(_feature, least=1)),
        "settings": _in_json(documents.mapped(documents.anything)),
    },
    others="dropped",
)


def _network(features: Sequence[str], tensors: dict[str, Tensor]) -> RouterNetwork:
    """The network of these weights; Fault, KeyError or RuntimeError where they make none."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise documents.Fault(f"{name} must hold finite numbers")
    thresholds, cut = tensors["thresholds"], tensors["cut"]
    if thresholds.dim() != 1 or tensors["body.bias"].dim() != 1:
        raise documents.Fault("thresholds and body.bias must be rows of numbers")
    if len(thresholds) and "first-token-entropy" not in features:
        raise documents.Fault("thresholds need the feature 'first-token-entropy'")
    if cut.dim() or not 0 <= float(cut) <= 1 or not bool((tensors["scale"] > 0).all()):
        raise documents.Fault("cut must lie in [0, 1], and every scale above 0")
    network = RouterNetwork(features, thresholds.tolist(), len(tensors["body.bias"]))
    network.load_state_dict(tensors)
    return network
