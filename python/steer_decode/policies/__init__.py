"""Who writes next: one file per router, and their names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..core.drafting import Drafting
from ..errors import SteerError
from .base import REDO, RESTART, Mend, Policy, Question, Redo, Restart, StepStart, Verdict, Word
from .both_sides import BothSides
from .controls import AlwaysLarge, AlwaysSmall, RandomShare
from .ecotab import EcoTab
from .first_token import FirstTokenEntropy
from .foreal import Foreal
from .learned import Learned
from .percentile import Percentile
from .query_cascade import QueryCascade
from .replay import Replay
from .reward_guided import RewardGuided
from .settings import Setting, settings_of
from .spec_reason import SpecReason
from .speculative import Bild, PromptLookup, Speculative
from .steer import Steer
from .steer_cohort import SteerCohort

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        AlwaysSmall,
        AlwaysLarge,
        SteerCohort,
        Steer,
        Percentile,
        FirstTokenEntropy,
        BothSides,
        SpecReason,
        Speculative,
        Bild,
        PromptLookup,
        Foreal,
        RewardGuided,
        EcoTab,
        QueryCascade,
        Learned,
        RandomShare,
        Replay,
    )
}

__all__ = [
    "POLICIES",
    "REDO",
    "RESTART",
    "AlwaysLarge",
    "AlwaysSmall",
    "Bild",
    "BothSides",
    "EcoTab",
    "FirstTokenEntropy",
    "Foreal",
    "Learned",
    "Mend",
    "Percentile",
    "Policy",
    "PromptLookup",
    "QueryCascade",
    "Question",
    "RandomShare",
    "Redo",
    "Replay",
    "Restart",
    "RewardGuided",
    "RouterSpec",
    "SpecReason",
    "Speculative",
    "Steer",
    "SteerCohort",
    "StepStart",
    "Verdict",
    "Word",
    "parse_policy",
    "policy_class",
    "split_specs",
]


@dataclass(frozen=True)
class RouterSpec:
    """A router as the command line names it.

    Its class, and its settings as the class takes them.

    Attributes:
        name: of :data:`POLICIES`, or MODULE:CLASS.
        policy: the class.
        settings: those that were given, by name.
        draft: tokens of a draft, with which any router's large model may write; None for none.
    """

    name: str
    policy: type[Policy]
    settings: Mapping[str, Any]
    draft: int | Literal["auto"] | None = None

    @property
    def known(self) -> dict[str, Setting]:
        """What a text may set of this router, by name."""
        return settings_of(self.policy, self.name)

    @classmethod
    def read(cls, text: str) -> RouterSpec:
        """``NAME`` or ``NAME:SETTING=VALUE:...``, NAME may be MODULE:CLASS.

        ``draft=K`` goes with every router that has no setting of that name and no drafts.

        Raises:
            SteerError: an unknown name or setting, or a value of another type than the setting's.
        """
        name, *parts = text.split(":")
        if name not in POLICIES and parts and "=" not in parts[0]:
            name = f"{name}:{parts.pop(0)}"
        policy = policy_class(name)
        known = cls(name, policy, {}).known
        values: dict[str, str] = {}
        last: Setting | None = None
        draft: int | Literal["auto"] | None = None
        for part in parts:
            key, equals, value = part.partition("=")
            if key == "draft" and equals and key not in known and policy.drafting is None:
                draft = _length(name, value)
                last = None
                continue
            if last is not None and last.free and not equals:
                values[last.name] += f":{part}"  # its text has a colon, as MODULE:FUNCTION
                continue
            if not equals or key not in known:
                choice = f"it takes {', '.join(known)}" if known else "it takes none"
                raise SteerError(
                    f"router {name!r} has no setting {part!r}: {choice} (as KEY=VALUE)"
                )
            last, values[key] = known[key], value
        settings = {key: known[key].read(value) for key, value in values.items()}
        return cls(name, policy, settings, draft)

    def make(self, **defaults: Any) -> Policy:
        """Make the router.

        ``defaults`` are settings where the text has none and the router knows them.

        Raises:
            SteerError: a value that the router refuses, or one that it needs and has not.
        """
        known = self.known
        if "threshold" in self.settings:
            defaults.pop("calibration", None)
        given = {k: v for k, v in defaults.items() if k in known} | dict(self.settings)
        missing = [key for key, setting in known.items() if setting.needed and key not in given]
        if missing:
            raise SteerError(f"router {self.name!r} needs {missing[0]}, as in {missing[0]}=VALUE")
        try:
            made = self.policy(**given)
            if self.draft is not None:
                if made.drafting is not None:
                    raise SteerError(f"router {self.name!r} drafts already: leave draft out")
                made.drafting = Drafting(self.draft)
            return made
        except SteerError:
            raise
        except Exception as error:  # whatever a router of somebody's raises
            raise SteerError(
                f"router {self.name!r} cannot be made: {type(error).__name__}: {error}"
            ) from error


def _length(router: str, text: str) -> int | Literal["auto"]:
    """The value of ``draft=``.

    Raises:
        SteerError: it is neither "auto" nor a whole number from 1 on.
    """
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise SteerError(
            f"draft of router {router!r} must be a number of tokens from 1 on, or auto, "
            f"got {text!r}"
        )
    return int(text)


def policy_class(name: str) -> type[Policy]:
    """The router of this name, or of MODULE:CLASS.

    MODULE must be importable.

    Raises:
        SteerError: there is no such router or class, or it is no :class:`Policy`.
    """
    if name in POLICIES:
        return POLICIES[name]
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise SteerError(
            f"unknown router {name!r}: choose from {', '.join(POLICIES)}, or name a class of your "
            "own as MODULE:CLASS"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module of somebody's raises
        raise SteerError(
            f"cannot find the router {name!r}: {error} (is its folder on PYTHONPATH?)"
        ) from error
    if not isinstance(found, type) or not issubclass(found, Policy):
        raise SteerError(f"router {name!r} is no class derived from steer_decode.Policy")
    return found


def parse_policy(text: str, **defaults: Any) -> Policy:
    """A policy from ``NAME`` or ``NAME:SETTING=VALUE:...``, as in ``first-token:threshold=0.4``.

    Args:
        text: the specification; NAME is one of :data:`POLICIES`, or MODULE:CLASS.
        defaults: settings that are used where the text has none and the policy knows them.

    Raises:
        SteerError: an unknown name or setting, or a value that the setting does not take.
    """
    return RouterSpec.read(text).make(**defaults)


def split_specs(text: str) -> list[str]:
    """The routers of "A,B:SETTING=VALUE", each once.

    A comma in the text of a setting, as in the name of a file, ends no router: what follows it
    names none.
    """
    found: list[str] = []
    for part in text.split(","):
        if found and _goes_on(found[-1], part):
            found[-1] += f",{part}"
        elif part.strip():
            found.append(part.strip())
    return list(dict.fromkeys(found))


def _goes_on(spec: str, part: str) -> bool:
    name, *settings = spec.split(":")
    key, equals, _ = settings[-1].partition("=") if settings else ("", "", "")
    if name not in POLICIES or not equals or part.strip() in POLICIES or ":" in part:
        return False
    setting = settings_of(POLICIES[name], name).get(key)
    return setting is not None and setting.free
