"""Files of fitted numbers: what was written is read, and written again it is the same file."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from steer_decode import Calibration, SteerError
from steer_decode.policies import BothSides
from steer_decode.policies.fitted.both_sides import BothSidesCalibration
from steer_decode.policies.fitted.file import SHIPPED
from steer_decode.policies.fitted.logistic import Logistic, LogisticMaps
from steer_decode.policies.fitted.network import TrainedNetwork
from steer_decode.policies.fitted.promise import Promise
from support.side_door import PAIR

LOAD: dict[str, Any] = {
    "../calibration.json": Calibration.load,
    "both-sides.json": BothSidesCalibration.load,
    "both-sides-promise.json": Promise.load,
    "corea.json": partial(LogisticMaps.load, kind="corea"),
    "ecotab.json": partial(LogisticMaps.load, kind="ecotab"),
    "policy-guided.safetensors": TrainedNetwork.load,
    "roro.safetensors": TrainedNetwork.load,
}
REFUSED = {
    "../calibration.json": ("calibration 'f' was made", "`steer calibrate`"),
    "both-sides.json": (
        "calibration 'f' of router 'both-sides' was made",
        "`steer calibrate --router both-sides`",
    ),
    "both-sides-promise.json": (
        "promise 'f' was made",
        "`steer calibrate --router both-sides --promise`",
    ),
    "corea.json": ("router parameters 'f' were fitted", "`steer train-router corea`"),
    "ecotab.json": ("router parameters 'f' were fitted", "`steer train-router ecotab`"),
    "policy-guided.safetensors": ("learned router 'f' was trained", "`steer train-router`"),
    "roro.safetensors": ("learned router 'f' was trained", "`steer train-router`"),
}


@pytest.mark.parametrize("name", LOAD)
def test_a_shipped_file_is_written_again_as_it_was(tmp_path: Path, name: str) -> None:
    old, new = SHIPPED / name, tmp_path / "new"
    LOAD[name](old).save(new)
    if name.endswith(".json"):
        assert new.read_bytes() == old.read_bytes()
    else:  # the library puts what stands at the head of a file into any order
        assert contents(new) == contents(old)


def contents(path: Path) -> Any:
    with safe_open(str(path), "pt") as file:
        tensors = {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118
        return file.metadata(), tensors


@pytest.mark.parametrize("name", LOAD)
def test_what_was_fitted_for_another_pair_is_refused(name: str) -> None:
    fitted = LOAD[name](SHIPPED / name)
    with pytest.raises(SteerError) as refused:
        fitted.check(PAIR, "f")
    begin, way = REFUSED[name]
    theirs = f"({fitted.pair}, this one is {PAIR.fingerprint})"
    assert str(refused.value).startswith(f"{begin} for another pair {theirs}: ")
    assert str(refused.value).endswith(way)


def test_a_source_that_is_no_file_is_not_named() -> None:
    made = Calibration("x", "max-logit", {"small": {}, "large": {}}, {"small": {}, "large": {}})
    with pytest.raises(SteerError, match=r"^the calibration was made for another pair \(x, "):
        made.check(PAIR)


def test_a_number_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text("old")
    made = LogisticMaps("corea", "x", {"answer": Logistic(math.nan, 0.0)})
    with pytest.raises(SteerError, match=r"^cannot write '.*f\.json': .*JSON compliant"):
        made.save(path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("least", [1, 0.99])
def test_a_promise_whose_parts_no_router_takes_is_named(tmp_path: Path, least: float) -> None:
    """A part ends before a token below ``least``, which no bar may lie below."""
    record = json.loads((SHIPPED / "both-sides-promise.json").read_text())
    assert record["bars"][-1]["sure"] < 0.99
    path = tmp_path / "promise.json"
    path.write_text(json.dumps({**record, "least": least}))
    with pytest.raises(SteerError, match=r"promise\.json.*least is"):
        BothSides(loss=0.01, path=path)
