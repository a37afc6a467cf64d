"""What routers are made with: refused by name where it is made, not when an answer is half done."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from steer_decode import SteerError
from steer_decode.policies import (
    POLICIES,
    BothSides,
    EcoTab,
    FirstTokenEntropy,
    Learned,
    Policy,
    QueryCascade,
    Replay,
    RewardGuided,
    SpecReason,
    Steer,
    SteerCohort,
)
from steer_decode.policies.fitted.file import SHIPPED

CALIBRATION = SHIPPED.parent / "calibration.json"
# What a router needs beside the argument that is tried.
NEEDED: dict[str, dict[str, Any]] = {
    "steer": {"threshold": 20.0},
    "ecotab": {"path": SHIPPED / "ecotab.json"},
    "learned": {"path": "roro"},
}
WRONG = ("a", 1j, b"x", [], {}, object(), np.array([0.5, 1.0]))
ARGUMENTS = [(name, key) for name, p in POLICIES.items() for key in inspect.signature(p).parameters]


@pytest.mark.parametrize(("router", "argument"), ARGUMENTS, ids=map(":".join, ARGUMENTS))
def test_what_is_of_another_kind_is_refused_by_name(router: str, argument: str) -> None:
    given = {key: value for key, value in NEEDED.get(router, {}).items() if key != argument}
    if (router, argument) == ("both-sides", "path"):
        given["share"] = 0.5
    if (router, argument) == ("steer", "calibration"):
        given = {}
    for wrong in WRONG:
        if argument == "strings" and isinstance(wrong, list):
            continue  # no strings are strings
        with pytest.raises(SteerError) as refused:
            POLICIES[router](**given, **{argument: wrong})
        words = (argument, *(["trace", "S or L"] if router == "replay" else []), "cannot read")
        assert any(word in str(refused.value) for word in words), str(refused.value)


@pytest.mark.parametrize("wrong", [None, True, math.nan, 10**400, "0.5"], ids=repr)
@pytest.mark.parametrize("router", [FirstTokenEntropy, QueryCascade, RewardGuided])
def test_a_threshold_is_a_number(router: type[Policy], wrong: Any) -> None:
    with pytest.raises(SteerError, match="threshold must be a number"):
        router(threshold=wrong)  # type: ignore[call-arg]


def test_numbers_of_numpy_and_infinite_thresholds_are_taken() -> None:
    assert SteerCohort(gamma=np.float32(0.5)).gamma == 0.5  # type: ignore[arg-type]
    assert type(FirstTokenEntropy(np.int64(1)).threshold) is float  # type: ignore[arg-type]
    assert str(SpecReason(-math.inf)) == "spec-reason:threshold=-inf:grade=log-prob"


def test_files_are_named_by_text_or_path() -> None:
    def pairs(file: Path) -> tuple[Any, Any]:
        return str(file), file

    made = [
        [Steer(f) for f in pairs(CALIBRATION)],
        [EcoTab(path=f) for f in pairs(SHIPPED / "ecotab.json")],
        [QueryCascade(path=f) for f in pairs(SHIPPED / "corea.json")],
        [Learned(f) for f in pairs(SHIPPED / "roro.safetensors")],
        [BothSides(share=0.5, path=f) for f in pairs(SHIPPED / "both-sides.json")],
    ]
    assert all(str(text) == str(path) for text, path in made)
    with pytest.raises(SteerError, match=r"cannot read trace 'nothing\.json'"):
        Replay(path=Path("nothing.json"))
