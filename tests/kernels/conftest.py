"""What tests of the compiled kernels share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def made() -> Iterator:
    """Triton kernels as PTX that is ready to run; each is compiled once, by one process."""
    pytest.importorskip("triton")
    if sys.platform != "linux":
        pytest.skip("Triton compiles for a GPU on Linux alone")
    from support.emulated import programs

    with programs() as found:
        yield found
