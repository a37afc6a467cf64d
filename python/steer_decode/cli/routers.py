"""The router of a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SteerError
from .models import Models

if TYPE_CHECKING:
    from ..policies import Policy, RouterSpec


def make_policy(
    spec: str, models: Models, calibration: Path | None = None, **overrides: object
) -> Policy:
    """The router of ``NAME:KEY=VALUE:...``.

    ``overrides`` that are not None win over its settings.

    Raises:
        SteerError: an unknown router or setting, or a setting that this router cannot take.
    """
    from ..policies import RouterSpec

    given = {key: value for key, value in overrides.items() if value is not None}
    text = ":".join([spec, *(f"{key}={value}" for key, value in given.items())])
    router = RouterSpec.read(text)
    if calibration is None:
        return router.make(**files_of(router, models))
    if not router.policy.takes_calibration:
        raise SteerError(f"router {router.name!r} takes no calibration: leave out --calibration")
    if "threshold" in router.settings:
        raise SteerError("give either a calibration or a threshold, not both")
    return router.make(calibration=str(calibration))


def wants_calibration(spec: str) -> bool:
    """Whether the router of this text goes by a calibration.

    It does if it knows one and has no threshold.

    Raises:
        SteerError: as :func:`make_policy`.
    """
    from ..policies import RouterSpec

    router = RouterSpec.read(spec)
    return router.policy.takes_calibration and "threshold" not in router.settings


def files_of(router: RouterSpec, models: Models) -> dict[str, str]:
    """What the package has for these models.

    A calibration, and parameters of fitted routers.

    It has nothing but for the demo pair.
    """
    if not models.demo:
        return {}
    from ..policies.fitted.file import SHIPPED

    policy, file = router.policy, router.policy.shipped_for(router.settings)
    made = str(SHIPPED.parent / "calibration.json")
    files = {"calibration": made} if policy.takes_calibration else {}
    return files | ({"path": str(SHIPPED / file)} if file else {})
