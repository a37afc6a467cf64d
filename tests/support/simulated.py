"""Made-up answers and fleets for tests of the simulation."""

from __future__ import annotations

from typing import Any

from steer_decode.core.transcript import Writer
from steer_decode.simulation.fleet import FleetPlan, PoolPlan
from steer_decode.simulation.passes import PassTime
from steer_decode.simulation.script import Act, Script, alone

FREE = PassTime(1.0, 0.0, 0.0)


def script(steps: str = "ssl", tokens: int = 5, prompt: int = 20, name: str = "a") -> Script:
    """An answer of steps of so many tokens, "s" of the small model, "l" of the large one."""
    acts, length, passed = [], prompt, 0
    writers: list[Writer] = ["small" if letter == "s" else "large" for letter in steps]
    for number, writer in enumerate(writers):
        acts.append(Act(writer, "write", length, tokens, tokens, number))
        length += tokens
        passed += number > 0 and writers[number - 1] != writer
    counts: dict[Writer, int] = {"small": steps.count("s"), "large": steps.count("l")}
    written: dict[Writer, int] = {w: n * tokens for w, n in counts.items()}
    return Script(
        name,
        prompt,
        tuple(acts),
        length - prompt,
        passed,
        counts,
        written,
        dict.fromkeys(counts, 0),
    )


def one_call(tokens: int = 10, prompt: int = 1) -> Script:
    """An answer of the large model alone."""
    return alone(script("l", tokens, prompt), "large")


def fleet(
    small: PassTime = FREE, large: PassTime = FREE, replicas: tuple[int, int] = (1, 1), **more: Any
) -> FleetPlan:
    """A fleet with exact caches; ``more`` is of the pools or of the fleet."""
    pool = {k: more.pop(k) for k in ("rows", "budget", "block", "cache") if k in more}
    pools: dict[Writer, PoolPlan] = {
        "small": PoolPlan(small, replicas[0], **{"block": 1, **pool}),
        "large": PoolPlan(large, replicas[1], **{"block": 1, **pool}),
    }
    return FleetPlan(pools, **more)
