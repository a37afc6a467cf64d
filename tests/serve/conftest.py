"""One server with the demo pair for all tests that do not need one of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="steer serve needs the extra `serve`")
pytest.importorskip("openai")

from steer_decode import Pair
from steer_decode.cli.models import Models
from steer_decode.cli.routers import files_of
from support.served import Served

DEMO = Models("demo", None, None, None, "cpu")


def demo_files(spec: Any) -> dict[str, str]:
    return files_of(spec, DEMO)


@pytest.fixture(scope="session")
def demo() -> Pair:
    return DEMO.load()


@pytest.fixture(scope="session")
def served(demo: Pair) -> Iterator[Served]:
    with Served(demo, files=demo_files, keep_bytes=2**26) as server:
        yield server


@pytest.fixture(scope="session")
def client(served: Served) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
