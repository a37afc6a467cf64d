"""Fleets that carry a load: as few engines as will do."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("simpy")

from steer_decode.errors import SteerError
from steer_decode.simulation.arrivals import Load
from steer_decode.simulation.compare import Contender
from steer_decode.simulation.passes import PassTime
from steer_decode.simulation.run import simulate
from steer_decode.simulation.size import Target, size
from support.simulated import fleet, one_call, script


def carries(one: Contender, target: Target) -> bool:
    found = simulate(one.scripts, one.plan, Load("poisson", target.rate), target.answers)
    return found.carried and found.latency[95] <= target.within


def test_as_few_engines_as_arithmetic_says() -> None:
    """Each of ten rows writes an answer a second: 35 a second take four engines, and no fewer."""
    large = fleet(large=PassTime(100, 0, 0), replicas=(0, 1), rows=10, placing="least")
    found = size(Contender([one_call(10)], large), Target(35, 3))
    assert found.plan.pools["large"].replicas == 4
    assert found.plan.pools["small"].replicas == 0


def test_no_engine_can_be_taken_from_what_is_found() -> None:
    plan = fleet(PassTime(10, 0.5, 0.1), PassTime(40, 2, 0.5), rows=8, block=16)
    target = Target(20, 4)
    found = size(Contender([script("slls", 10)], plan), target)
    assert carries(found, target)
    pools = found.plan.pools
    assert pools["large"].replicas > 1
    for writer, pool in pools.items():
        if pool.replicas > 1:
            fewer = {**pools, writer: replace(pool, replicas=pool.replicas - 1)}
            less = replace(found, plan=replace(found.plan, pools=fewer))
            assert not carries(less, target)


def test_what_cannot_be_carried_is_refused() -> None:
    plan = fleet(large=PassTime(100, 0, 0))
    with pytest.raises(SteerError, match=r"--within 0.5 cannot be kept: .* takes 1 s or more"):
        size(Contender([one_call(10)], plan), Target(1, 0.5))
    for rate, within, name in (
        (0, 1, "--carry"),
        (1, -1, "--within"),
        (1, float("nan"), "--within"),
    ):
        with pytest.raises(SteerError, match=f"^{name} must be above 0"):
            Target(rate, within)
