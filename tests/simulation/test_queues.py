"""The simulated engine against what is known of queues, and against arithmetic by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("simpy")

from dataclasses import replace

from steer_decode.simulation.arrivals import Load
from steer_decode.simulation.fleet import Fleet
from steer_decode.simulation.passes import PassTime
from steer_decode.simulation.run import simulate
from steer_decode.simulation.tariff import Tariff
from support.simulated import fleet, one_call, script

NOTHING = {"small": Tariff(), "large": Tariff()}


@pytest.mark.parametrize("load", [0.2, 0.5])
@pytest.mark.few(1)
def test_one_row_is_a_queue_with_one_server(load: float) -> None:
    """M/D/1: mean wait rho D / (2 (1 - rho)) (Pollaczek 1930, Khinchin 1932), here D = 1 s."""
    plan = fleet(large=PassTime(100, 0, 0), rows=1)
    found = simulate([one_call(10)], plan, Load("poisson", load), 15_000)
    assert found.mean == pytest.approx(1 + load / (2 * (1 - load)), rel=0.05)
    assert found.utilisation["large"] == pytest.approx(load, rel=0.03)


def test_an_engine_with_room_for_all_makes_nobody_wait_beyond_a_pass() -> None:
    plan = fleet(large=PassTime(100, 0, 0), rows=1000)
    found = simulate([one_call(10)], plan, Load("poisson", 50), 2000)
    assert found.latency[50] == pytest.approx(1.05, abs=0.01)  # half a pass until one begins
    assert found.latency[99] <= 1.1 + 1e-9


@pytest.mark.parametrize("arrivals", [Load("poisson", 3), Load("closed", 7)])
def test_little_s_law(arrivals: Load) -> None:
    """Answers inside = answers a second times seconds of an answer (Little 1961)."""
    plan = fleet(PassTime(5, 0.1, 0.1), PassTime(20, 0.3, 0.2), call_ms=2)
    found = simulate([script("slls"), script("sl", 9)], plan, arrivals, 700, warm=0)
    assert found.inside == pytest.approx(found.answers / found.seconds * found.mean, rel=1e-9)


def ends(plan, arrivals: Load, scripts, answers: int) -> list[float]:
    log = Fleet(scripts, plan, NOTHING, shuffled=False).run(arrivals, answers)
    return [told.end for told in log.answers]


def test_two_answers_in_one_engine_by_hand() -> None:
    """The second comes in the middle of a pass, and joins the next one."""
    plan = fleet(large=PassTime(100, 20, 1))
    # At 0.5 and 1 s. The first reads 3 tokens in 102 ms, then a pass each 100 ms: they end at
    # 0.602, 0.702, 0.802, 0.902, 1.002, the last of which the second waits for. From there a pass
    # over both, with the second's three tokens: 122 ms; then 120 ms each.
    first = 1.002 + 0.122 + 4 * 0.120
    assert ends(plan, Load("steady", 2), [one_call(10, 3)], 2) == pytest.approx(
        [first, first + 5 * 0.100]
    )


def test_a_prompt_beyond_the_budget_is_read_in_parts() -> None:
    """Ten tokens at four a pass: three passes, of which the last gives the first token."""
    plan = fleet(large=PassTime(100, 0, 0), rows=4, budget=4)
    assert ends(plan, Load("closed", 1), [one_call(2, 10)], 1) == pytest.approx([0.4])
    # Beside a row that decodes a pass has room for three tokens of it.
    both = ends(plan, Load("closed", 2), [one_call(9, 1), one_call(2, 10)], 2)
    assert both == pytest.approx([0.9, 0.5])


def test_models_in_one_process_take_turns() -> None:
    """Each pass waits for the other model's: two answers take the sum of all passes."""
    plan = fleet(PassTime(30, 0, 0), PassTime(70, 0, 0), one_device=True)
    found = ends(plan, Load("closed", 2), [script("s", 4), script("l", 4)], 2)
    assert found == pytest.approx([0.03 * 4 + 0.07 * 3, 0.4])


@pytest.mark.parametrize("rows", [3, 64])
def test_many_passes_at_once_are_as_one_by_one(rows: int) -> None:
    """Of an engine that has its device for itself, which is reckoned pass by pass."""
    scripts = [script("l", n, prompt=30 * n) for n in (3, 17, 40)]
    jumps = fleet(large=PassTime(20, 1, 0.5), rows=rows, budget=64)
    turns = replace(jumps, one_device=True)
    arrivals = Load("poisson", 4)
    assert ends(jumps, arrivals, scripts, 300) == pytest.approx(ends(turns, arrivals, scripts, 300))


def test_the_front_of_an_engine_takes_one_call_after_another() -> None:
    """Two calls of one pass: 7 ms on the way, 3 at the front, where the second waits for them."""
    plan = fleet(large=PassTime(100, 0, 0), rows=1, call_ms=10, front_ms=3)
    found = ends(plan, Load("closed", 2), [one_call(1)], 2)
    assert found == pytest.approx([0.110, 0.210])
    plan = fleet(large=PassTime(0.5, 0, 0), call_ms=10, front_ms=3)
    assert ends(plan, Load("closed", 2), [one_call(1)], 2) == pytest.approx([0.0105, 0.0135])
    # In one process a pass waits for it too: 3 ms of either call, and then one pass over both.
    plan = fleet(large=PassTime(100, 0, 0), one_device=True, call_ms=3, front_ms=3)
    assert ends(plan, Load("closed", 2), [one_call(1)], 2) == pytest.approx([0.106, 0.106])


def test_every_arrival_ends_and_the_seed_decides() -> None:
    scripts = [script("slls"), script("sl", 9)]
    plan = fleet(PassTime(5, 0.1, 0.1), PassTime(20, 0.3, 0.2), (2, 3), call_ms=2)
    runs = [
        simulate(scripts, replace(plan, seed=seed), Load("poisson", 9), 501) for seed in (3, 3, 4)
    ]
    assert all(run.answers == 501 for run in runs)
    for run in runs:  # of whom the last one is of either kind
        assert 250 * (4 + 2) + 2 <= sum(run.calls.values()) <= 250 * (4 + 2) + 4
    assert runs[0] == runs[1]
    assert runs[0].mean != runs[2].mean


@pytest.mark.parametrize("placing", ["session", "least", "round"])
def test_more_engines_never_answer_less(placing: str) -> None:
    """Sixty conversations, which one engine of each model has no room for."""
    rates = []
    for n in (1, 2, 4):
        plan = fleet(
            PassTime(10, 1, 1), PassTime(40, 4, 4), (n, n), rows=8, placing=placing, block=16
        )
        rates.append(
            simulate([script("slls", 20)], plan, Load("closed", 60), 400).answers_per_second
        )
    assert rates[0] < rates[1] < rates[2]
