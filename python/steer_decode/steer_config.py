"""Settings of a router in ``generation_config.json``, under "steer", or in the call itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .errors import SteerError
from .pair import Pair
from .policies import parse_policy
from .steps import StepBoundary

if TYPE_CHECKING:
    from .router import Router

# A boundary decodes the whole vocabulary, too long to do at every call.
_boundaries: WeakKeyDictionary[Pair, dict[tuple[str, int], StepBoundary]] = WeakKeyDictionary()


@dataclass(frozen=True)
class SteerConfig:
    """What may stand under "steer"; what does not is the router's own.

    Attributes:
        router: a policy as on the command line, ``NAME:SETTING=VALUE:...``. One that wants a
            calibration and names none takes that of the router's policy.
        delimiter: text that closes a step.
        max_step_tokens: most tokens of a step.
        seed: of sampling and of policies that draw; row i has ``seed + i``.
    """

    router: str | None = None
    delimiter: str | None = None
    max_step_tokens: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("router", "delimiter"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise SteerError(f"steer: {name} must be a text, got {value!r}")
        for name, least in (("max_step_tokens", 1), ("seed", 0)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not whole or value < least):
                raise SteerError(
                    f"steer: {name} must be a whole number from {least} on, got {value!r}"
                )

    @classmethod
    def read(cls, settings: Any) -> SteerConfig:
        """Settings as they stand in JSON.

        Raises:
            SteerError: not a dict, an unknown key, or a value of the wrong kind.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(settings, Mapping):
            raise SteerError(
                f"steer must be a dict with settings from {', '.join(known)}, got {settings!r}"
            )
        unknown = ", ".join(repr(key) for key in settings if key not in known)
        if unknown:
            raise SteerError(f"steer has no setting {unknown}: it takes {', '.join(known)}")
        return cls(**settings)

    def apply(self, router: Router) -> Router:
        """``router``, or one that differs from it in what is set here.

        Raises:
            SteerError: a policy that is unknown, ill set, or cannot serve the router's pair.
        """
        own = copy.copy(router)
        if self.router is not None:
            calibration = getattr(router.policy, "calibration", None)
            defaults = {"calibration": calibration} if calibration is not None else {}
            try:
                own.policy = parse_policy(self.router, **defaults)
            except SteerError as error:
                raise SteerError(f"steer: router {self.router!r}: {error}") from error
            own.policy.check(own.pair)
        if self.delimiter is not None or self.max_step_tokens is not None:
            delimiter, max_tokens = router.boundary.settings
            key = (self.delimiter or delimiter, self.max_step_tokens or max_tokens)
            boundaries = _boundaries.setdefault(own.pair, {})
            if key not in boundaries:
                boundaries[key] = StepBoundary(own.pair.tokenizer, own.pair.vocab_size, *key)
            own.boundary = boundaries[key]
        return own
