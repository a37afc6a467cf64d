"""`steer check` says of two servers whether they can serve, and whether the gate is inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from steer_decode import Pair

pytest.importorskip("httpx2", reason="vLLM's servers need the extra `vllm`")

from support.commands import refused, steer
from support.stub_vllm import StubVllm
from support.tiny import save_pair


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StubVllm]]:
    folders = save_pair(tmp_path_factory.mktemp("pair"))
    pair = Pair.from_pretrained(*folders)
    with (
        StubVllm(pair.small, pair.tokenizer, "tiny-s", str(folders[0]), gate=True) as small,
        StubVllm(pair.large, pair.tokenizer, "tiny-l", str(folders[1])) as large,
    ):
        yield [small, large]


def urls(servers: list[StubVllm]) -> list[str]:
    return ["--small-url", servers[0].url, "--large-url", servers[1].url]


@pytest.mark.slow
def test_the_gate_is_found_where_it_is_and_not_where_it_is_not(servers: list[StubVllm]) -> None:
    found: dict[str, Any] = json.loads(steer("check", *urls(servers), "--json").stdout)["servers"]
    assert found["small"]["gate"] is True
    assert found["small"]["handoff"] == 34  # a row of the head without a token
    assert found["large"]["gate"] is False
    assert [found[w]["model"] for w in found] == ["tiny-s", "tiny-l"]
    shown = steer("check", *urls(servers))
    assert shown.exit_code == 0
    assert "inside: routers that look before a step are served" in shown.stdout
    assert "none: first-token is refused; start the server with" in shown.stdout


def test_servers_that_do_not_fit_are_refused_in_one_sentence(servers: list[StubVllm]) -> None:
    swapped = urls(servers[::-1])
    assert "exchange the two addresses" in refused("check", *swapped)
    assert "--small-url is given without" in refused("check", *urls(servers)[:2])
    assert "--pair is for models" in refused("check", *urls(servers), "--pair", "demo")


def test_it_is_asked_without_writing_anything(servers: list[StubVllm], tmp_path: Path) -> None:
    for server in servers:
        server.asked.clear()
    steer("check", *urls(servers))
    assert not any(server.asked for server in servers)  # no stream of tokens
