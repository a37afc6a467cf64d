"""Two stub servers over one tiny pair, for all tests that do not need some of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from steer_decode import Pair

pytest.importorskip("httpx2", reason="vLLM's servers need the extra `vllm`")

from steer_decode.core.transcript import Writer
from steer_decode.engines.vllm.servers import Patience
from steer_decode.models.vllm_pair import VllmPair
from support.stub_vllm import StubVllm
from support.tiny import save_pair

QUICK = Patience(connect=5.0, silence=60.0, pauses=(0.0, 0.0, 0.0))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def here(folders: tuple[Path, Path]) -> Pair:
    return Pair.from_pretrained(*folders)


@pytest.fixture(scope="session")
def _running(here: Pair, folders: tuple[Path, Path]) -> Iterator[dict[Writer, StubVllm]]:
    with ExitStack() as stack:
        yield {
            writer: stack.enter_context(
                StubVllm(here.model(writer), here.tokenizer, writer, str(folder))
            )
            for writer, folder in zip(("small", "large"), folders, strict=True)
        }


@pytest.fixture
def stubs(_running: dict[Writer, StubVllm]) -> Iterator[dict[Writer, StubVllm]]:
    for stub in _running.values():
        stub.settle()
        stub.faults.clear()
        stub.asked.clear()
        stub.read.clear()
        stub.pace = 0.0
    yield _running
    for stub in _running.values():
        stub.held.set()


@pytest.fixture(scope="session")
def _connected(_running: dict[Writer, StubVllm]) -> Iterator[VllmPair]:
    pair = VllmPair.connect(_running["small"].url, _running["large"].url, patience=QUICK)
    yield pair
    pair.close()


@pytest.fixture
def there(_connected: VllmPair, stubs: dict[Writer, StubVllm]) -> VllmPair:
    return _connected
