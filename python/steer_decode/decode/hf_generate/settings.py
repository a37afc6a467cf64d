"""Settings of a router under "steer", in call or file.

They stand in the call of ``generate`` itself, or in ``generation_config.json``. The two are not
trusted alike. ``steer=`` was written by whoever calls ``generate``; the file came with a model, and
its author is nobody's user. It may set numbers, and names no code and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ...core.boundary import StepBoundary
from ...errors import SteerError
from ...models.pair import Pair
from ...models.two_models import TwoModels
from ...policies import Policy, parse_policy
from ...policies.from_data import parse_data_policy

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from ..routing import Routing

# A boundary decodes the whole vocabulary, too long to do at every call.
_boundaries: WeakKeyDictionary[TwoModels, dict[tuple[str, int], StepBoundary]] = WeakKeyDictionary()


@dataclass(frozen=True)
class SteerConfig:
    """What may stand under "steer".

    What does not stand there is the router's own.

    Attributes:
        router: a policy as on the command line, ``NAME:SETTING=VALUE:...``. One that wants a
            calibration and names none takes that of the router's policy.
        delimiter: text that closes a step.
        max_step_tokens: most tokens of a step.
        seed: of sampling and of policies that draw; row i has ``seed + i``.
        trusted: the user wrote this. Otherwise ``router`` is read by :func:`parse_data_policy`.
    """

    router: str | None = None
    delimiter: str | None = None
    max_step_tokens: int | None = None
    seed: int | None = None
    trusted: bool = False

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
    def read(cls, settings: Any, *, trusted: bool) -> SteerConfig:
        """Settings as they stand in JSON.

        Args:
            settings: a dict, keys as the attributes.
            trusted: they are of the user's own call, not of a file that came with a model.

        Raises:
            SteerError: not a dict, an unknown key, or a value of the wrong kind.
        """
        known = [field.name for field in fields(cls) if field.name != "trusted"]
        if not isinstance(settings, Mapping):
            raise SteerError(
                f"steer must be a dict with settings from {', '.join(known)}, got {settings!r}"
            )
        unknown = ", ".join(repr(key) for key in settings if key not in known)
        if unknown:
            raise SteerError(f"steer has no setting {unknown}: it takes {', '.join(known)}")
        return cls(**settings, trusted=trusted)

    @classmethod
    def of_call(
        cls, steer: Any, call: GenerationConfig, model: GenerationConfig | None, routing: Routing
    ) -> SteerConfig:
        """What one call of ``generate`` sets.

        Args:
            steer: the argument of the call, or None.
            call: as prepared by ``generate``: the call's own config on top of the model's.
            model: the model's own, from its folder; it sets only what ``routing`` leaves open.
            routing: of the router that is called.

        Raises:
            SteerError: as :meth:`read`.
        """
        if steer is not None:
            return cls.read(steer, trusted=True)
        entry = getattr(call, "steer", None)
        # Such an object may have been read from somebody's file as well: it is no user's word.
        config = cls.read({} if entry is None else entry, trusted=False)
        if entry == getattr(model, "steer", None):
            config = replace(config, router=None)
            if routing.own_boundary:
                config = replace(config, delimiter=None, max_step_tokens=None)
        return config

    def apply(self, routing: Routing) -> Routing:
        """``routing``, but for what is set here.

        Raises:
            SteerError: a policy that is unknown, ill set, or cannot serve the pair.
        """
        pair = routing.pair
        if self.router is not None:
            policy = self._policy(self.router, routing.policy)
            policy.check(pair)
            routing = replace(routing, policy=policy)
        if self.delimiter is not None or self.max_step_tokens is not None:
            delimiter, max_tokens = routing.boundary.settings
            key = (self.delimiter or delimiter, self.max_step_tokens or max_tokens)
            boundaries = _boundaries.setdefault(pair, {})
            if key not in boundaries:
                boundaries[key] = StepBoundary(pair.tokenizer, pair.vocab_size, *key)
            routing = replace(routing, boundary=boundaries[key])
        return routing

    def _policy(self, text: str, usual: Policy) -> Policy:
        try:
            if not self.trusted:
                return parse_data_policy(text)
            calibration = usual.calibration
            return parse_policy(
                text, **({} if calibration is None else {"calibration": calibration})
            )
        except SteerError as error:
            raise SteerError(f"steer: router {text!r}: {error}") from error


def recommended_policy(pair: Pair) -> Policy:
    """The router that the small model's ``generation_config.json`` names.

    The file is read as data.

    Raises:
        SteerError: it names none, or one that data may not name.
    """
    entry = getattr(pair.small.generation_config, "steer", None)
    config = SteerConfig.read({} if entry is None else entry, trusted=False)
    if config.router is None:
        raise SteerError(
            "policy must be a router such as FirstTokenEntropy(0.5), got none, and the "
            "generation_config.json of the small model names none"
        )
    try:
        return parse_data_policy(config.router)
    except SteerError as error:
        raise SteerError(
            f"router {config.router!r} in the generation_config.json of the small model: {error}"
        ) from error
