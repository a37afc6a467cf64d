"""One pytest-benchmark test for each op: ours and its peers in one group a case.

`test_NAME = grouped("NAME")` in a file measures the same cases and calls as `steer bench kernels`.
STEER_BENCH=quick in the environment takes the cases of its --quick.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steer_decode.bench.kernels import peers
from steer_decode.bench.kernels.plan import QUICK, Case, KernelPlan
from steer_decode.bench.kernels.workload import OURS, PEERS, backend, workload

PLAN = QUICK if os.environ.get("STEER_BENCH") == "quick" else KernelPlan()
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def _cases(op: str) -> list[Any]:
    found: list[Any] = []
    for device, threads in (("cpu", (1, 2)), ("cuda", (1,))):
        plan = KernelPlan((op,), PLAN.batches, PLAN.vocabs, PLAN.dtypes, PLAN.k, threads, device)
        marks = [no_gpu] if device == "cuda" else []
        found += [pytest.param(case, marks=marks, id=str(case)) for case in plan.cases()]
    return found


def grouped(op: str) -> Callable[..., None]:
    """The test of one op."""

    @pytest.mark.parametrize("contender", [OURS, *PEERS[op], *peers.NAMES.get(op, [])])
    @pytest.mark.parametrize("case", _cases(op))
    def test(benchmark: Any, case: Case, contender: str) -> None:
        torch.set_num_threads(case.threads)
        with torch.inference_mode():
            work = workload(case, compiled=contender == "torch.compile")
            if contender not in work.calls:
                pytest.skip(f"{contender} is not installed, or not for this device")
            call = work.calls[contender]

            def run() -> None:
                call()
                if case.device == "cuda":
                    torch.cuda.synchronize()

            run()  # compiles
            benchmark.group = str(case)
            benchmark.name = contender
            if work.reset:  # the op moves on at every call, so each is timed alone
                benchmark.pedantic(run, setup=work.reset, rounds=200)
            else:
                benchmark(run)
        benchmark.extra_info.update(
            backend=backend(case), bytes=work.bytes, threads=case.threads, torch=torch.__version__
        )

    return test
