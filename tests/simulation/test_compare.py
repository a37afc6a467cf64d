"""Where routing ceases to pay, and what the costs are."""

from __future__ import annotations

import pytest

pytest.importorskip("simpy")

from dataclasses import replace

import torch
from steer_decode.demo import pair_paths
from steer_decode.simulation.arrivals import Load
from steer_decode.simulation.compare import (
    Comparison,
    Contender,
    compare,
    large_alone,
    most_carried,
    part_of,
)
from steer_decode.simulation.passes import PassTime
from steer_decode.simulation.run import simulate
from steer_decode.simulation.script import Script, alone
from steer_decode.simulation.tariff import Tariff
from support.simulated import fleet, one_call, script

ROUTED = [script("sslss", 4)]
ALONE = [alone(ROUTED[0], "large")]


def contender(small: float, large: float, **more: object) -> Contender:
    plan = fleet(PassTime(small, 0, 0), PassTime(large, 0, 0), **{"rows": 4, **more})
    return Contender(ROUTED, plan)


def test_the_large_model_has_the_same_machines() -> None:
    routed = contender(1, 10, replicas=(3, 2))
    pools = {
        w: replace(p, machines=m)
        for (w, p), m in zip(routed.plan.pools.items(), (1, 2), strict=True)
    }
    other = large_alone(Contender(ROUTED, replace(routed.plan, pools=pools)), ALONE)
    assert other.plan.pools["small"].replicas == 0
    assert other.plan.pools["large"].replicas == 3  # of 3 * 1 + 2 * 2 machines, at two each


def test_what_is_carried_at_the_most() -> None:
    """A full engine of four rows ends four answers in the passes of one."""
    one = Contender([one_call(10)], fleet(large=PassTime(100, 0, 0), rows=4))
    assert most_carried(one) == pytest.approx(4, rel=0.02)
    assert most_carried(
        part_of(
            Contender([one_call(10)], fleet(large=PassTime(100, 0, 0), rows=4, replicas=(2, 2))), 2
        )
    ) == pytest.approx(4, rel=0.02)


def test_routing_pays_until_its_large_engine_is_full() -> None:
    """Alone there are two large engines; routed one, which writes a fifth of the tokens."""
    found = compare(contender(1, 20, rows=1), ALONE, answers=300)
    # Routed 1 / (4 * 0.02) answers a second; alone 2 / (20 * 0.02).
    assert found.carried["routed"] == pytest.approx(12.5, rel=0.1)
    assert found.carried["alone"] == pytest.approx(5, rel=0.1)
    assert found.turns == []
    assert found.points[0].pays
    assert "at every load" in found.sentence()


def test_routing_ceases_to_pay_where_it_carries_less() -> None:
    """A router whose answers are mostly the large model's, on one of two machines."""
    routed = Contender([script("sllll", 4)], contender(1, 20, rows=1).plan)
    found = compare(routed, [alone(routed.scripts[0], "large")], answers=300)
    assert found.carried["routed"] < found.carried["alone"]
    (turn,) = found.turns
    assert found.points[0].pays
    assert 0.1 * found.carried["routed"] < turn <= 1.1 * found.carried["routed"]
    assert found.sentence().startswith("routing is faster up to ")


def test_routing_never_pays_where_the_small_model_is_as_slow() -> None:
    found = compare(contender(20, 20, rows=1), ALONE, answers=200)
    assert found.turns == []
    assert "slower at every load" in found.sentence()


def test_a_fleet_is_reckoned_by_its_equal_parts() -> None:
    one, three = (
        compare(contender(1, 20, replicas=(n, n), rows=1), ALONE, answers=120) for n in (1, 3)
    )
    assert three.parts == 3
    assert three.carried["routed"] == pytest.approx(3 * one.carried["routed"])
    assert [p.rate for p in three.points] == pytest.approx([3 * p.rate for p in one.points])


@pytest.mark.parametrize(
    ("pays", "turns", "words"),
    [
        ([True], [4.0], "faster up to 4 answers"),
        ([False], [4.0], "faster from 4 on answers"),
        ([False], [2.0, 4.0], "faster from 2 to 4 answers"),
        ([True], [2.0, 4.0], "faster up to 2 and from 4 on answers"),
    ],
)
def test_the_sentence(pays: list[bool], turns: list[float], words: str) -> None:
    class Point:
        def __init__(self, pays: bool) -> None:
            self.pays = pays

    points = [Point(p) for p in pays]
    found = Comparison({"routed": 5, "alone": 5}, points, turns)  # type: ignore[arg-type]
    assert words in found.sentence()


def answer(steps: Script) -> dict[str, float | None]:
    """Costs by the sizes of the demo pair, of an answer that is alone."""
    from steer_decode.preflight import read_side

    small, large = (
        read_side(w, str(p), torch.float32)
        for w, p in zip(("small", "large"), pair_paths(), strict=True)
    )
    assert small.shape is not None
    assert large.shape is not None
    tariffs = {"small": Tariff.of(small.shape), "large": Tariff.of(large.shape)}
    plan = fleet(gate="loop", one_device=True)
    return simulate([steps], plan, Load("closed", 1), 1, tariffs, warm=0).costs


def test_costs_are_those_of_the_engines() -> None:
    """Three of the four costs of an answer, as `steer generate` counted them."""
    from steer_decode import Pair, Router
    from steer_decode.demo import problems
    from steer_decode.policies import parse_policy
    from steer_decode.simulation.script import of_trace

    pair = Pair.from_pretrained(*pair_paths())
    out = Router(pair, parse_policy("random:share=0.5")).generate(
        problems("math", 4)[3].prompt, max_new_tokens=60
    )
    assert out.cost.hand_overs
    costs = answer(of_trace(out.trace, "it"))
    for name in ("flops_paper", "flops_processed", "bytes_read"):
        assert costs[name] == pytest.approx(getattr(out.cost, name))


def test_costs_of_models_that_nobody_knows_are_unknown() -> None:
    plan = fleet()
    found = simulate(ROUTED, plan, Load("closed", 1), 1)
    assert found.costs["flops_paper"] is None
    known = {"small": Tariff(10), "large": Tariff(100)}
    costs = simulate(ROUTED, plan, Load("closed", 1), 1, known, warm=0).costs
    assert costs["flops_paper"] == 2 * (10 * 16 + 100 * 4)
    assert costs["bytes_read"] == 2 * (10 * 16 + 100 * 4)
