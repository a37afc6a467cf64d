"""Shared set-up: Triton's interpreter where there is no GPU, markers, and global torch state."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from support.acceptors import ACCEPTORS, Accept, use_acceptor
from support.backends import Run, backends, interpreter_fault, use_backend
from support.preloaded import Launch, forked, started
from support.samplers import SAMPLERS, Sample, use_sampler
from support.selection import (
    of_triton,
    spare_the_interpreter,
    spare_the_usual_pairings,
    spare_what_many_cases_show,
    what_ci_leaves_out_is_slow,
)

HAS_GPU = torch.cuda.is_available()

# What an example takes, and how fast they are drawn, says how busy the machine is, not what fails.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

if not HAS_GPU:  # read by triton when it is imported, so set before any test module imports it
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.hookimpl(tryfirst=True)  # before -m deselects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    spare_the_usual_pairings(items)
    if not HAS_GPU:
        spare_the_interpreter(items)
    spare_what_many_cases_show(items)
    what_ci_leaves_out_is_slow(items)
    if HAS_GPU:
        return
    _name_a_broken_interpreter(items)
    skip = pytest.mark.skip(reason="no CUDA device on this machine")
    for item in items:
        if item.get_closest_marker("gpu"):  # not its keywords: a folder may be called gpu
            item.add_marker(skip)


def _name_a_broken_interpreter(items: list[pytest.Item]) -> None:
    """Skip what it cannot run, and say what to do; what is compiled alone runs nevertheless."""
    fault = interpreter_fault()
    if fault is None:
        return
    skip = pytest.mark.skip(reason=fault)
    for item in items:
        if of_triton(item) and item.originalname != "test_compiled_code":  # type: ignore[attr-defined]
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Spare each collection half a million imported objects.

    What tests make is collected as ever.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Give them back, for extensions that look for leaks when Python ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _torch_state() -> Iterator[None]:
    """A fixed seed, and one thread unless a test sets more: the tests are many and small.

    On a busy machine the barriers of a thread pool would otherwise take most of the time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if HAS_GPU:
        torch.manual_seed(0)
    else:  # the other one writes down, for each kind of device, where it was called from
        torch.default_generator.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=backends())
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """`logit_stats` for CPU tensors, once on each backend."""
    with use_backend(request.param) as backend:
        yield backend


@pytest.fixture(params=SAMPLERS)
def sample(request: pytest.FixtureRequest) -> Iterator[Sample]:
    """`sample_logits` for CPU tensors, once on each backend."""
    with use_sampler(request.param) as sampler:
        yield sampler


@pytest.fixture(params=ACCEPTORS)
def accept(request: pytest.FixtureRequest) -> Iterator[Accept]:
    """`accept_drafts` for CPU tensors, once on each backend."""
    with use_acceptor(request.param) as acceptor:
        yield acceptor


@pytest.fixture(params=[forked, pytest.param(started, marks=pytest.mark.slow)])
def launch(request: pytest.FixtureRequest) -> Launch:
    """Starts a program of this package: forked from one that has its imports, and a fresh one."""
    return request.param
