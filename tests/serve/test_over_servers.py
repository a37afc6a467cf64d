"""`steer serve` over two servers of vLLM: the answers of before, and what only servers do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from steer_decode import Pair
from support.commands import refused, save
from support.served import Served
from support.stub_vllm import StubVllm

pytest.importorskip("httpx2", reason="vLLM's servers need the extra `vllm`")

from steer_decode.engines.vllm.servers import Patience
from steer_decode.models.vllm_pair import VllmPair

ROUTER = "random:share=0.5"
PROMPTS = ["w1w2 w3", "w4 w5w6", "w7w8w9"]
ASKED = {"model": "steer", "max_tokens": 30, "temperature": 0, "seed": 1}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("models")
    return Pair.from_pretrained(*(save(folder / name, i) for i, name in enumerate(("s", "l"))))


@pytest.fixture(scope="module")
def running(here: Pair) -> Iterator[list[StubVllm]]:
    models = [(here.small, "small"), (here.large, "large")]
    with ExitStack() as stack:
        yield [
            stack.enter_context(StubVllm(m, here.tokenizer, name, m.config.name_or_path))
            for m, name in models
        ]


@pytest.fixture
def stubs(running: list[StubVllm]) -> Iterator[list[StubVllm]]:
    for stub in running:
        stub.faults.clear()
        stub.asked.clear()
        stub.pace = 0.0
    yield running
    for stub in running:
        stub.held.set()


@pytest.fixture(scope="module")
def served(running: list[StubVllm]) -> Iterator[Served]:
    patience = Patience(5.0, 60.0, (0.0, 0.0, 0.0))
    pair = VllmPair.connect(*(stub.url for stub in running), patience=patience)
    with Served(pair, ROUTER) as server:
        yield server
    pair.close()


def texts(server: Served, **more: Any) -> list[str]:
    found = []
    for prompt in PROMPTS:
        answer = server.post("/v1/completions", json={**ASKED, "prompt": prompt, **more})
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["choices"][0]["text"])
    return found


def test_answers_are_those_of_the_models_here(
    served: Served, stubs: list[StubVllm], here: Pair
) -> None:
    with Served(here, ROUTER) as plain:
        assert texts(served) == texts(plain)
        assert texts(served, model="small") == texts(plain, model="small")
        several = {**ASKED, "prompt": PROMPTS, "steer": {"trace": True}}
        there, at_home = (s.post("/v1/completions", json=several).json() for s in (served, plain))
    assert there["choices"] == at_home["choices"]
    for name in ("tokens", "hand_overs", "discarded"):
        assert there["usage"]["steer"][name] == at_home["usage"]["steer"][name]


def test_a_stream_is_the_whole_answer(served: Served, stubs: list[StubVllm]) -> None:
    body = {**ASKED, "prompt": PROMPTS[0], "stream": True}
    lines = served.post("/v1/completions", json=body).text.splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    import json

    text = "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1] if '"text"' in e)
    assert text == texts(served)[0]


def test_a_fault_of_a_server_ends_its_answer_and_no_other(
    served: Served, stubs: list[StubVllm]
) -> None:
    expected = texts(served)
    stubs[1].faults.extend([("error", 0)] * 4)
    answer = served.post("/v1/completions", json={**ASKED, "model": "large", "prompt": "w1w2"})
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_server"
    assert "the large model 'large' at http" in error["message"]
    assert texts(served) == expected
    served.settle()


def test_a_client_that_goes_frees_the_servers(served: Served, stubs: list[StubVllm]) -> None:
    import time

    import httpx2

    stubs[1].pace = 0.02
    body = {**ASKED, "model": "large", "prompt": PROMPTS[0], "stream": True}
    with httpx2.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    served.settle()
    while stubs[1].going:
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"logprobs": 2}, "logprobs", "logprobs cannot be had"),
        ({"steer": {"router": "first-token"}}, "steer.router", "needs the gate"),
        ({"steer": {"router": "speculative:k=2"}}, "steer.router", "verified by the large model"),
        ({"prompt": "w9" * 600}, "prompt", "give --small-url"),
    ],
)
def test_what_servers_cannot_do_is_refused(
    served: Served, stubs: list[StubVllm], fields: Any, param: str, said: str
) -> None:
    answer = served.post("/v1/completions", json={**ASKED, "prompt": "w9", **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert said in answer.json()["error"]["message"]
    # What a client before left behind may still come, and begins with another word.
    begins = served.router.pair.encode("w9")
    asked = [body["prompt"] for stub in stubs for body, _ in stub.asked]
    assert not [ids for ids in asked if ids[: len(begins)] == begins]


URLS = ["--small-url", "http://127.0.0.1:1", "--large-url", "http://127.0.0.1:1"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (URLS, "--router has no default with two servers"),
        ([*URLS, "--router", "both-sides"], "router 'both-sides' has the large model grade every"),
        ([*URLS, "--router", "steer"], "steer needs either a calibration"),
        ([*URLS, "--router", ROUTER], "--small-url http://127.0.0.1:1 cannot be reached"),
        ([*URLS[:2], "--router", ROUTER], "--small-url is given without --large-url"),
    ],
)
@pytest.mark.few(2)
def test_a_server_that_cannot_serve_does_not_start(args: list[str], said: str) -> None:
    assert said in refused("serve", "--port", "0", *args)
