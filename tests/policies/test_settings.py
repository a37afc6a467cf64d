"""Settings of a router are read by their annotations, those of a user's own router too."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

import pytest
from steer_decode import (
    BothSides,
    Learned,
    Policy,
    Signal,
    Steer,
    SteerCohort,
    SteerError,
    get_signal,
    parse_policy,
)
from steer_decode.policies import POLICIES, RouterSpec
from support.commands import refused, steer

if TYPE_CHECKING:
    from decimal import Decimal

Mode = Literal["fast", "slow"]


class Own(Policy):
    """One setting of each kind; it only remembers what it was given."""

    def __init__(
        self,
        number: float = 0.5,
        whole: int = 3,
        switch: bool = False,
        text: str = "a",
        mode: Mode = "fast",
        level: Literal[1, 2, "top"] = 1,
        maybe: float | None = 1.0,
        old_style: Optional[int] = 1,  # noqa: UP045
        either: Union[int, str] = 1,  # noqa: UP007
        file: Path = Path("x"),
        text_or_path: str | Path | None = None,
        where: str | Decimal = "",
        signal: Signal = get_signal("margin"),  # noqa: B008
        bare=2.0,
        anything: Any = None,
        strings: Sequence[str] = (),
        exact: Decimal | None = None,
    ) -> None:
        self.given = {key: value for key, value in locals().items() if key != "self"}


class Needs(Policy):
    def __init__(self, mode: str) -> None:
        if mode == "bad":
            raise RuntimeError("no such mode")
        self.mode = mode


OWN = f"{__name__}:Own"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("number=1", 1.0),
        ("number=-inf", float("-inf")),
        ("whole=-7", -7),
        ("switch=true", True),
        ("text=0.5", "0.5"),
        ("text=true", "true"),
        ("text=none", "none"),
        ("text=module:function", "module:function"),
        ("text=a=b", "a=b"),
        ("text=", ""),
        ("mode=slow", "slow"),
        ("level=2", 2),
        ("level=top", "top"),
        ("maybe=2", 2.0),
        ("maybe=none", None),
        ("old_style=4", 4),
        ("either=4", 4),
        ("either=four", "four"),
        ("file=a/b", Path("a/b")),
        ("text_or_path=a:b", "a:b"),
        ("where=5", "5"),
        ("bare=3", 3.0),
        ("anything=true", True),
        ("anything=2", 2),
        ("anything=2.5", 2.5),
        ("anything=two", "two"),
    ],
)
def test_a_text_is_read_as_its_annotation_says(text: str, value: object) -> None:
    made = parse_policy(f"{OWN}:{text}")
    assert isinstance(made, Own)
    found = made.given[text.partition("=")[0]]
    assert (found, type(found)) == (value, type(value))


def test_a_signal_is_found_by_name() -> None:
    made = parse_policy(f"{OWN}:signal=entropy:whole=1")
    assert isinstance(made, Own)
    assert made.given["signal"] is get_signal("entropy")
    assert made.given["whole"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("number=lots", "number of router '.*:Own' must be a number, got 'lots'"),
        ("number=true", "number of router '.*' must be a number, got 'true'"),
        ("whole=1.5", "whole of router '.*' must be a whole number, got '1.5'"),
        ("whole=1e3", "whole of router '.*' must be a whole number, got '1e3'"),
        ("switch=1", "switch of router '.*' must be true or false, got '1'"),
        ("switch=True", "switch of router '.*' must be true or false, got 'True'"),
        ("mode=quick", "mode of router '.*' must be one of fast, slow, got 'quick'"),
        ("level=3", "level of router '.*' must be one of 1, 2, top, got '3'"),
        ("maybe=x", "maybe of router '.*' must be a number, got 'x'"),
        ("signal=hunch", "signal of router '.*' must be one of max-logit, .*, got 'hunch'"),
        ("bare=x", "bare of router '.*' must be a number, got 'x'"),
        ("strings=a", "strings of router '.*' cannot be set by a text, got 'a': make the router"),
        ("exact=1", "exact of router '.*' cannot be set by a text, got '1'"),
        ("moods=1", "router '.*:Own' has no setting 'moods=1': it takes number, whole, switch"),
        ("number", "router '.*:Own' has no setting 'number'"),
    ],
)
def test_another_text_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        parse_policy(f"{OWN}:{text}")


def test_settings_of_built_in_routers_are_typed_too() -> None:
    assert parse_policy("steer-cohort:monotone=true").monotone is True  # type: ignore[attr-defined]
    with pytest.raises(SteerError, match="monotone of router 'steer-cohort' must be true or false"):
        parse_policy("steer-cohort:monotone=0.5")
    for name, policy in POLICIES.items():
        for key, setting in RouterSpec(name, policy, {}).known.items():
            assert setting.kinds, (name, key)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nothing_of_this_name:Own",
            "cannot find the router 'nothing_of_this_name:Own': No module",
        ),
        (f"{__name__}:Other", "cannot find the router '.*:Other': .*has no attribute 'Other'"),
        (f"{__name__}:Mode", "router '.*:Mode' is no class derived from steer_decode.Policy"),
        ("math:hypot", "router 'math:hypot' is no class derived from"),
        (
            "own",
            "unknown router 'own': choose from small, .* or name a class of your own as MODULE",
        ),
        (f"{__name__}:Needs", "router '.*:Needs' needs mode, as in mode=VALUE"),
        (f"{__name__}:Needs:mode=bad", "router '.*:Needs' cannot be made: RuntimeError: no such"),
    ],
)
def test_a_router_that_cannot_be_had_is_named(text: str, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        parse_policy(text)


def test_a_users_router_with_a_text_runs_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_routers.py").write_text(
        "from __future__ import annotations\n"
        "from typing import Literal\n"
        "from steer_decode import Policy, StepStart\n"
        "class Fixed(Policy):\n"
        "    name = 'fixed'\n"
        "    def __init__(self, who: Literal['small', 'large'], note: str = '') -> None:\n"
        "        self.who, self.note = who, note\n"
        "    def before_step(self, start: StepStart) -> str:\n"
        "        return self.who\n"
        "    def __str__(self) -> str:\n"
        "        return f'my_routers:Fixed:who={self.who}'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    question = "Who is Ada .mentor ?"

    def answered(router: str) -> str:
        done = steer("generate", question, "--router", router)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert answered("my_routers:Fixed:who=large:note=a:b") == answered("large")
    assert answered("my_routers:Fixed:who=small") == answered("small")
    said = refused("generate", question, "--router", "my_routers:Fixed:who=me")
    assert "who of router 'my_routers:Fixed' must be one of small, large, got 'me'" in said
    said = refused("generate", question, "--router", "my_routers:Fixed:who=small", "--share", 0.5)
    assert "router 'my_routers:Fixed' has no setting 'share=0.5': it takes who, note" in said
    monkeypatch.delitem(sys.modules, "my_routers")


class OwnCalibration(Policy):
    takes_calibration = True

    def __init__(self, calibration: str | None = None, threshold: float | None = None) -> None:
        self.given = calibration, threshold


def test_a_users_router_that_takes_a_calibration_is_given_it() -> None:
    from steer_decode.cli.models import Models
    from steer_decode.cli.routers import make_policy, wants_calibration

    spec, demo = f"{__name__}:OwnCalibration", Models("demo", None, None, None, None)
    made, shipped = make_policy(spec, demo, Path("mine.json")), make_policy(spec, demo)
    assert isinstance(made, OwnCalibration)
    assert isinstance(shipped, OwnCalibration)
    assert made.given == ("mine.json", None)
    assert Path(str(shipped.given[0])).name == "calibration.json"
    assert wants_calibration(spec)
    assert not wants_calibration(f"{spec}:threshold=1")
    with pytest.raises(SteerError, match="either a calibration or a threshold, not both"):
        make_policy(f"{spec}:threshold=1", demo, Path("mine.json"))
    with pytest.raises(SteerError, match=r"router '.*:Own' takes no calibration: leave out"):
        make_policy(OWN, demo, Path("mine.json"))


def test_a_policy_says_what_it_goes_by() -> None:
    from steer_decode.policies.fitted.file import SHIPPED

    calibrated = Steer(SHIPPED.parent / "calibration.json")
    assert calibrated.has_posterior
    assert calibrated.fitted.startswith("max-logit {'small': {")
    bare = Steer(threshold=3.0)
    assert (bare.has_posterior, bare.fitted, bare.calibration) == (False, "", None)
    assert SteerCohort().has_posterior
    assert Own().fitted == ""
    one, other = Learned("roro"), Learned("policy-guided")
    assert one.fitted != other.fitted
    assert BothSides(share=0.5, path=SHIPPED / "both-sides.json").fitted.startswith("Thresholds(")
    assert BothSides().fitted == ""
