"""Passes of two vLLM servers, timed over HTTP, and answers that are written over both.

The servers are unmodified. A trial is some streams of random tokens to one server at once, one
token long or some: the difference is in passes, and what a call of one token takes beyond its pass
is what a call takes.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import httpx2 as httpx
from steer_decode import Router
from steer_decode.core.transcript import WRITERS
from steer_decode.models.vllm_pair import VllmPair
from steer_decode.policies import parse_policy
from steer_decode.simulation.fleet import FleetPlan, PoolPlan
from steer_decode.simulation.passes import PassTime, Timed, fit

ROWS, LENGTHS, TOKENS, BLOCK = (1, 4, 16), (8, 200), (1, 33), 32
Trial = tuple[int, int, int]  # streams at once, tokens of a prompt, tokens of an answer


async def stream(client: httpx.AsyncClient, url: str, ids: list[int], tokens: int) -> float:
    """Seconds of a call, as the engine of this package makes it."""
    body = {
        "model": model_of(url), "prompt": ids, "max_tokens": tokens, "temperature": 0,
        "ignore_eos": True, "logprobs": 1, "stream": True, "return_token_ids": True,
    }  # fmt: skip
    begin = time.perf_counter()
    async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for _ in response.aiter_lines():
            pass
    return time.perf_counter() - begin


@cache
def model_of(url: str) -> str:
    """The model of a server."""
    return str(httpx.get(f"{url}/v1/models").json()["data"][0]["id"])


async def _trials(url: str, seed: int) -> dict[Trial, float]:
    chance, found = random.Random(seed), {}
    async with httpx.AsyncClient(timeout=600) as client:
        await stream(client, url, [10] * 8, 1)  # a connection, and what is set up at first
        for rows in ROWS:
            for length in LENGTHS:
                for tokens in TOKENS:
                    prompts = [
                        [chance.randrange(10, 200) for _ in range(length)] for _ in range(rows)
                    ]
                    calls = (stream(client, url, ids, tokens) for ids in prompts)
                    found[rows, length, tokens] = 1e3 * statistics.fmean(
                        await asyncio.gather(*calls)
                    )
    return found


def trials(url: str, seed: int) -> dict[Trial, float]:
    """Milliseconds of a call, at the mean over the streams of each trial."""
    return asyncio.run(_trials(url, seed))


def times_of(rounds: Sequence[dict[Trial, float]]) -> tuple[PassTime, float, float]:
    """The time of a pass; ms of a call beside its passes, and of the front in it.

    Calls that differ in the tokens that they write differ in so many passes; those that differ in
    their prompts, in what their first passes read.
    """
    middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    few, many = TOKENS
    gaps = [
        Timed(rows, rows, (middle[rows, length, many] - middle[rows, length, few]) / (many - few))
        for rows in ROWS
        for length in LENGTHS
    ]
    line = fit([gap for gap in gaps if gap.ms > 0])
    short, long = (middle[1, length, few] for length in LENGTHS)
    token = max(0.0, (long - short) / (LENGTHS[1] - LENGTHS[0]))
    time_ = PassTime(line.ms, line.row, token)
    rows, length = ROWS[-1], LENGTHS[0]
    call = max(0.0, short - 1e3 * time_.seconds(1, length))
    # Where many calls come at once, the middle one has waited for half of the others.
    busy = middle[rows, length, few] - call - 1e3 * time_.seconds(rows, rows * length)
    return time_, call, min(call, max(0.0, 2 * busy / (rows - 1)))


def measured(
    urls: Sequence[str],
    names: Sequence[str],
    prompts: Callable[[int], Sequence[str]],
    rounds: int,
    at_once: Sequence[int],
    write: Callable[..., Any],
    line: Callable[..., dict[str, Any]],
) -> dict[str, Any]:
    """Time the servers and the routers over them, in turns."""
    pair = VllmPair.connect(*urls)
    routers = {name: Router(pair, parse_policy(name)) for name in names}
    seen: dict[str, list[Any]] = {w: [] for w in WRITERS}
    found: dict[tuple[str, int], Any] = {}
    for turn in range(rounds):
        for writer, url in zip(WRITERS, urls, strict=True):
            seen[writer].append(trials(url, turn))
        for name, router in routers.items():
            for rows in at_once:
                one = write(router, prompts(rows), rows, time.perf_counter)
                kept = found.setdefault((name, rows), one)
                if kept is not one:
                    kept.seconds += one.seconds
    pair.close()
    times = {w: times_of(each) for w, each in seen.items()}
    plan = FleetPlan(
        {w: PoolPlan(time_, block=BLOCK, rows=16) for w, (time_, *_) in times.items()},
        call_ms=statistics.fmean(call for _, call, _ in times.values()),
        front_ms=statistics.fmean(front for *_, front in times.values()),
    )
    return {
        "passes": {
            w: f"{time_}; {call:.1f} ms a call, {front:.1f} of them one after another"
            for w, (time_, call, front) in times.items()
        },
        "lines": [line(name, rows, one, plan) for (name, rows), one in found.items()],
    }
