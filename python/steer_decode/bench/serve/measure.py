"""What is measured of a server, and beside what."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from .load import ServerProcess, Streamed, hang_up, metric, stream, together


@dataclass(frozen=True)
class ServePlan:
    """How much is measured.

    Attributes:
        streams: concurrent ones, each of a client that asks again when its answer has ended.
        rounds: answers of each. With one, the time is largely that in which clients and server
            have not all begun yet, or have ended.
        rows: of the server, and of the router beside it.
        requests: after which memory is compared with that after a tenth of them.
        leaving: clients that hang up.
        pairs: of single streams, one by the server and one by the router.
        long: tokens of the prompt that joins others.
    """

    streams: int = 200
    rounds: int = 3
    rows: int = 32
    requests: int = 2000
    leaving: int = 1000
    pairs: int = 30
    long: int = 400


TURNS = 3  # trials of a figure; of the sides of a ratio the least time counts
QUICK = ServePlan(streams=40, rows=16, requests=200, leaving=60, pairs=8)


@dataclass
class ServeResult:
    """The figures.

    Attributes:
        plan: how much was measured.
        lost: answers of the concurrent streams without an end.
        wrong: of these, those whose text is not that of ``Router.generate``.
        throughput: answers a second of the server over those of ``Router.cohort``, the best of
            three turns of each.
        overhead: seconds of one stream over those of ``Router.stream``, less one; the median.
        memory: resident bytes after all requests over those after a tenth, less one.
        leaked: rows that run though all clients have gone.
        pause: longest gap of a stream while a long prompt joins, over the seconds in which that
            prompt alone is read; the median of three trials.
        first, gaps: seconds to the first text, and between texts, of the concurrent streams of
            the best turn, at the percentiles 50, 90 and 99.
    """

    plan: dict[str, Any] = field(default_factory=dict)
    lost: int = 0
    wrong: int = 0
    throughput: float = 0.0
    overhead: float = 0.0
    memory: float = 0.0
    leaked: int = 0
    pause: float = 0.0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


def percentiles(values: Sequence[float]) -> list[float]:
    """At 50, 90 and 99 in a hundred."""
    ordered = sorted(values) or [float("nan")]
    return [ordered[min(len(ordered) - 1, int(len(ordered) * p))] for p in (0.5, 0.9, 0.99)]


def measure(
    router: Any, prompts: Sequence[str], plan: ServePlan, told: Callable[[str], None]
) -> ServeResult:
    """Measure a server with the router's pair.

    Args:
        router: in this process, the peer; its answers are the right ones.
        prompts: that are asked, again where there are too few.
        plan: how much.
        told: is told what comes next.
    """
    found = ServeResult(plan=asdict(plan))
    answers = plan.streams * plan.rounds
    asked = [prompts[i % len(prompts)] for i in range(max(answers, plan.requests))]
    options = ("--router", str(router.policy.label), "--max-rows", str(plan.rows))
    with ServerProcess(*options, "--max-queue", "4000", "--keep", "0") as server:
        told(f"{plan.streams} concurrent streams")
        _streams(found, router, server, asked[:answers], plan)
        told("single streams")
        asyncio.run(_single(found, router, server, asked[: plan.pairs]))
        told("a long prompt that joins others")
        trials = (_pause(server, asked[: plan.rows // 2], plan.long) for _ in range(TURNS))
        found.pause = median(asyncio.run(trial) for trial in trials)
        told(f"{plan.requests} requests")
        few = plan.requests // 10
        asyncio.run(together(server.url, asked[:few], plan.rows))
        before = server.resident_bytes
        asyncio.run(together(server.url, asked[few : plan.requests], plan.rows))
        found.memory = server.resident_bytes / before - 1
        told(f"{plan.leaving} clients that hang up")
        asyncio.run(_leaving(found, server, asked[: plan.leaving], plan.rows))
    return found


def _streams(
    found: ServeResult, router: Any, server: ServerProcess, prompts: Sequence[str], plan: ServePlan
) -> None:
    right: dict[str, str] = {}

    def cohorts(some: Sequence[str]) -> None:
        for at in range(0, len(some), plan.rows):
            group = list(some[at : at + plan.rows])
            outputs = router.cohort(group, max_new_tokens=128)
            right.update({p: output.text for p, output in zip(group, outputs, strict=True)})

    cohorts(prompts[: plan.rows])  # what is imported at the first answer is no answer's time
    asyncio.run(together(server.url, prompts[: plan.rows], plan.streams))
    by_router, by_server = [], []
    for _ in range(TURNS):
        begin = time.perf_counter()
        cohorts(prompts)
        by_router.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        answers = asyncio.run(together(server.url, prompts, plan.streams))
        by_server.append(time.perf_counter() - begin)
        found.lost += sum(not answer.finish for answer in answers)
        found.wrong += sum(a.text != right[p] for a, p in zip(answers, prompts, strict=True))
        if by_server[-1] == min(by_server):
            found.first = percentiles([answer.first for answer in answers])
            found.gaps = percentiles([gap for answer in answers for gap in answer.gaps])
    found.throughput = min(by_router) / min(by_server)


async def _single(
    found: ServeResult, router: Any, server: ServerProcess, prompts: Sequence[str]
) -> None:
    from openai import AsyncOpenAI

    ratios = []
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        await stream(client, prompts[0])
        for prompt in prompts:
            alone, served = [], []
            for _ in range(TURNS):
                begin = time.perf_counter()
                router.stream(prompt, max_new_tokens=128).finish()
                alone.append(time.perf_counter() - begin)
                served.append((await stream(client, prompt)).seconds)
            ratios.append(min(served) / min(alone))
    found.overhead = median(ratios) - 1


async def _pause(server: ServerProcess, prompts: Sequence[str], tokens: int) -> float:
    from openai import AsyncOpenAI

    long = "Compute " + "1 +" * ((tokens - 8) // 2) + "1 ?"
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        options = {"model": "large", "max_tokens": 1}
        alone = [(await stream(client, long, **options)).seconds for _ in range(5)]
        others = [
            asyncio.create_task(stream(client, p, model="large", max_tokens=120)) for p in prompts
        ]
        joined: list[Streamed] = []
        while not all(task.done() for task in others):
            joined.append(await stream(client, long, **options))
        gaps = [gap for task in others for gap in task.result().gaps]
    return percentiles(gaps)[-1] / median(alone)


async def _leaving(
    found: ServeResult, server: ServerProcess, prompts: Sequence[str], rows: int
) -> None:
    await hang_up(server.url, prompts, rows * 2)
    end = time.monotonic() + 30
    running = 1.0
    while running and time.monotonic() < end:
        running = await metric(server.url, "vllm:num_requests_running")
        running += await metric(server.url, "vllm:num_requests_waiting")
        await asyncio.sleep(0.05)
    found.leaked = int(running)
    (answer,) = await together(server.url, prompts[:1], 1)
    found.lost += not answer.finish
