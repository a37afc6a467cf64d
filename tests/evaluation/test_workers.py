"""Workers of an evaluation: no thread of the parent is waited for, and none outlives it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.preloaded import Launch

RUN = """
import sys
import time
import torch
from steer_decode import AlwaysLarge, Pair, SteerError
from steer_decode.demo import pair_paths
from steer_decode.evaluation.evaluate import Evaluation, run
from steer_decode.evaluation.tasks import demo_tasks

class Held(AlwaysLarge):
    def before_step(self, start):
        time.sleep(300)


workers, threads, held = map(int, sys.argv[1:])
policy = Held() if held else AlwaysLarge()
torch.set_num_threads(2)
torch.randn(500, 500) @ torch.randn(500, 500)
torch.randn(1 << 20).exp()  # OpenMP has threads from here on
pair = Pair.from_pretrained(*pair_paths())
e = Evaluation(pair, {"large": policy}, demo_tasks(["math"], 6), {"max_new_tokens": 8})
try:
    for row in run(e, e.groups(), workers=workers, threads=threads):
        print(row.problem, flush=True)
except SteerError as error:
    print("steer:", error, flush=True)
"""


def start(launch: Launch, threads: int, held: bool = False) -> Any:
    """A command with two workers; those that are held do not get beyond their first step."""
    return launch(["-c", RUN, "2", str(threads), str(int(held))], session=True)


def children(process: Any) -> list[int]:
    return [
        int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(happens: Callable[[], bool], seconds: float = 300) -> bool:
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:
        time.sleep(0.02)
    return happens()


@pytest.mark.slow
def test_threads_of_the_parent_do_not_stop_the_workers(launch: Launch) -> None:
    process = start(launch, threads=2)
    try:
        out, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert sorted(out.split()) == list("012345")


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.few(1)
@pytest.mark.slow
def test_no_worker_outlives_its_parent(number: signal.Signals, launch: Launch) -> None:
    process = start(launch, threads=1, held=True)
    assert soon(lambda: len(children(process)) == 2)
    workers = children(process)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert soon(lambda: not any(map(alive, workers)))


@linux
@pytest.mark.slow
def test_a_worker_that_is_killed_is_named(launch: Launch) -> None:
    process = start(launch, threads=1, held=True)
    assert soon(lambda: len(children(process)) == 2)
    os.kill(children(process)[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    assert "steer: a worker was killed, as the system does where memory runs out: use" in out
