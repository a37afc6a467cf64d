"""Who writes the answer to a request.

It is the operator's router, or one that the request names.

A request is data. It may name a router that is built in and set numbers and words of it, as a
model's own files may; it names no code and no file. Those come from the command line alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..core.transcript import WRITERS
from ..decode.elsewhere import check_served
from ..errors import SteerError
from ..models.two_models import TwoModels
from ..policies import POLICIES, AlwaysLarge, AlwaysSmall, Policy, RouterSpec
from ..policies.from_data import data_spec
from .refusals import Refusal
from .requests import SteerFields

STEER = "steer"
MODELS = (*WRITERS, STEER)
_WAY = "the operator, on the command line"
_KEPT = 64  # routers that requests have named


def nameable() -> list[str]:
    """Routers that a request can name at all.

    Those that judge one answer alone and replay none.
    """
    return [name for name, policy in POLICIES.items() if not policy.in_rounds and name != "replay"]


def checked(spec: RouterSpec, allowed: Collection[str]) -> None:
    """Refuse what cannot be served; it needs no model.

    Raises:
        SteerError: a router that judges answers together, or a name that no request can choose.
    """
    if spec.policy.in_rounds:
        raise SteerError(
            f"--router {spec.name!r} judges the answers of a cohort together, and those of a "
            f"server come one by one: choose from {', '.join(nameable())}"
        )
    unknown = sorted(set(allowed) - set(nameable()))
    if unknown:
        raise SteerError(
            f"--allow {unknown[0]!r} is no router that a request can name: choose from "
            f"{', '.join(nameable())}, or `none`"
        )


class Choices:
    """The routers of a server.

    Args:
        pair: that they serve.
        spec: the operator's router, as on the command line.
        files: for a router the files of the operator's that it goes by.
        allowed: names of routers that a request may choose; none for no choice at all.

    Raises:
        SteerError: as :func:`checked`, or the router cannot be made, or cannot serve this pair.
    """

    def __init__(
        self,
        pair: TwoModels,
        spec: RouterSpec,
        files: Callable[[RouterSpec], Mapping[str, Any]],
        allowed: Collection[str],
    ) -> None:
        checked(spec, allowed)
        self._pair, self._spec, self._files = pair, spec, files
        self.default = spec.make(**files(spec))
        self.default.check(pair)
        self.allowed = tuple(allowed)
        self._alone: dict[str, Policy] = {"small": AlwaysSmall(), "large": AlwaysLarge()}
        self._named: dict[tuple[Any, ...], Policy] = {}

    def policy(self, model: str, asked: SteerFields | None) -> Policy:
        """Who writes.

        Raises:
            Refusal: an unknown model or router, or settings that the operator does not allow.
        """
        if model not in MODELS:
            raise Refusal(
                404,
                f"The model {model[:80]!r} does not exist: choose from {', '.join(MODELS)}",
                "model",
                "model_not_found",
            )
        key = (asked.router, asked.share, asked.threshold) if asked else (None, None, None)
        if model != STEER:
            if any(value is not None for value in key):
                raise Refusal(
                    400, f"steer sets a router, but model {model!r} writes alone", "steer"
                )
            return self._alone[model]
        if key == (None, None, None):
            return self.default
        if key not in self._named:
            if len(self._named) >= _KEPT:
                self._named.pop(next(iter(self._named)))
            self._named[key] = self._made(*key)
        return self._named[key]

    def _made(self, router: str | None, share: float | None, threshold: float | None) -> Policy:
        if not self.allowed:
            raise Refusal(403, "this server lets no request change its router", "steer")
        settings = {"share": share, "threshold": threshold}
        given = {name: value for name, value in settings.items() if value is not None}
        name = router.partition(":")[0] if router else self._spec.name
        if router and name not in self.allowed:
            raise Refusal(
                400,
                f"steer.router must be one of {', '.join(self.allowed)} here, got {name[:80]!r}",
                "steer.router",
            )
        try:
            spec = self._spec if name == self._spec.name and router in (None, name) else None
            spec = spec or data_spec(router or name, "a request", _WAY)
            unknown = [key for key in given if key not in spec.known]
            if unknown:
                raise Refusal(
                    400, f"router {name!r} has no setting {unknown[0]!r}", f"steer.{unknown[0]}"
                )
            settings = {**spec.settings, **given}
            spec = RouterSpec(spec.name, spec.policy, settings, spec.draft)
            made = spec.make(**self._files(spec))
            made.check(self._pair)
            if self._pair.elsewhere:
                check_served(made, self._pair.gated)
        except SteerError as error:
            raise Refusal(400, str(error), "steer.router" if router else "steer") from error
        return made
