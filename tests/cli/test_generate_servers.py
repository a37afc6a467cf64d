"""`steer generate` over two servers: their answers, and going on after a fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from steer_decode import Pair
from support.commands import refused, save, steer
from support.stub_vllm import StubVllm

pytest.importorskip("httpx2", reason="vLLM's servers need the extra `vllm`")

ROUTER = ["--router", "random:share=0.5", "--max-new-tokens", "40"]
QUESTION = "w1w2 w3"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [save(folder / name, seed) for seed, name in enumerate(("small", "large"))]


@pytest.fixture(scope="module")
def running(folders: list[str]) -> Iterator[list[StubVllm]]:
    pair = Pair.from_pretrained(*folders)
    models = zip((pair.small, pair.large), ("small", "large"), folders, strict=True)
    with ExitStack() as stack:
        yield [stack.enter_context(StubVllm(m, pair.tokenizer, *names)) for m, *names in models]


@pytest.fixture
def stubs(running: list[StubVllm], monkeypatch: pytest.MonkeyPatch) -> list[StubVllm]:
    from steer_decode.engines.vllm.servers import Patience

    monkeypatch.setattr(Patience.__new__, "__defaults__", (5.0, 60.0, (0.0, 0.0, 0.0)))
    for stub in running:
        stub.faults.clear()
        stub.asked.clear()
    return running


@pytest.fixture
def urls(stubs: list[StubVllm]) -> list[str]:
    return ["--small-url", stubs[0].url, "--large-url", stubs[1].url]


def document(*args: Any) -> dict[str, Any]:
    result = steer("generate", *args, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_answer_is_that_of_the_models_here(urls: list[str], folders: list[str]) -> None:
    there = document(QUESTION, *urls, *ROUTER)
    here = document(QUESTION, "--small", folders[0], "--large", folders[1], *ROUTER)
    assert there["token_ids"] == here["token_ids"]
    assert [s["writer"] for s in there["trace"]["steps"]] == [
        s["writer"] for s in here["trace"]["steps"]
    ]
    assert there["cost"]["flops_paper"] == here["cost"]["flops_paper"]
    text = steer("generate", QUESTION, *urls, *ROUTER, "--view", "text").stdout
    assert text.rstrip("\n") == here["text"].rstrip("\n")


@pytest.mark.parametrize("faults", [0, 3])
@pytest.mark.few(1)
def test_after_a_fault_the_answer_goes_on_from_its_trace(
    urls: list[str], stubs: list[StubVllm], tmp_path: Path, faults: int
) -> None:
    expected = document(QUESTION, *urls, *ROUTER)
    trace = tmp_path / "t.json"
    stubs[1].faults.extend([None] * faults + [("error", 1)] * 4)
    said = refused("generate", QUESTION, *urls, *ROUTER, "--trace", trace, "--json")
    assert "failed 4 times at token" in said
    assert said.endswith(
        f"go on from what was written: the same command with --resume {trace} does"
    )
    broken = json.loads(trace.read_text())
    assert broken["trace"]["stop_reason"] == "server"
    assert broken["token_ids"] == expected["token_ids"][: len(broken["token_ids"])]

    # A second fault, and then the end, in the same file.
    stubs[1].faults.extend([("drop", 0)] * 4)
    refused("generate", *urls, *ROUTER, "--resume", trace, "--json")
    assert json.loads(trace.read_text())["token_ids"] == broken["token_ids"]
    asked = sum(len(stub.asked) for stub in stubs)
    found = document(*urls, *ROUTER, "--resume", trace)
    assert found["token_ids"] == expected["token_ids"]
    assert found["prompt"] == QUESTION
    assert found["trace"]["stop_reason"] == expected["trace"]["stop_reason"]
    assert json.loads(trace.read_text()) == found
    assert sum(len(stub.asked) for stub in stubs) > asked

    said = refused("generate", *urls, *ROUTER, "--resume", trace)
    assert "holds an answer that has ended (max_new_tokens): there is nothing to go on wi" in said


@pytest.mark.slow
def test_the_trace_is_written_as_the_answer_grows(
    urls: list[str], stubs: list[StubVllm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steer_decode.cli import going_on

    sizes: list[int] = []
    plain = going_on.Kept.write

    def write(self: Any) -> None:
        plain(self)
        sizes.append(len(json.loads(self.file.read_text())["token_ids"]))

    monkeypatch.setattr(going_on.Kept, "write", write)
    found = document(QUESTION, *urls, *ROUTER, "--trace", tmp_path / "t.json")
    steps = found["trace"]["steps"]
    assert len(sizes) == len(steps) + 1
    assert sizes[0] == len(steps[0]["token_ids"])
    assert sizes == sorted(sizes)


@pytest.mark.slow
def test_going_on_with_something_else_is_refused(
    urls: list[str], stubs: list[StubVllm], folders: list[str], tmp_path: Path
) -> None:
    trace = tmp_path / "t.json"
    stubs[1].faults.extend([None, None, *[("500", 0)] * 4])
    refused("generate", QUESTION, *urls, *ROUTER, "--trace", trace, "--json")
    go_on = ["generate", *urls, "--resume", trace]
    assert "leave out PROMPT, --file" in refused(*go_on, *ROUTER, QUESTION)
    assert "leave out PROMPT, --file" in refused(*go_on, *ROUTER, "--ids", "4,5")
    assert "--seed is 3, and the answer of --resume" in refused(*go_on, *ROUTER, "--seed", 3)
    assert "--max-new-tokens is 50, and the" in refused(*go_on, *ROUTER[:2], "--max-new-tokens", 50)
    assert "was written by router 'random:share=0.5" in refused(*go_on, "--router", "large")
    other = json.loads(trace.read_text())
    other["models"]["large"]["parameters"] += 1
    (tmp_path / "other.json").write_text(json.dumps(other))
    said = refused("generate", *urls, *ROUTER, "--resume", tmp_path / "other.json")
    assert "is an answer of a large model of" in said
    missing = tmp_path / "none.json"
    assert "none.json" in refused("generate", *urls, *ROUTER, "--resume", missing)
    assert json.loads(trace.read_text())["trace"]["stop_reason"] == "server"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--small-url", "http://x"], "--small-url is given without --large-url"),
        (["--large-url", "http://x"], "--large-url is given without --small-url"),
        (["--tokenizer", "x"], "--tokenizer is for two servers"),
        (["--small-url", "a", "--large-url", "b", "--pair", "demo"], "--pair is for models that"),
        (["--small-url", "a", "--large-url", "b", "--dtype", "float32"], "--dtype is for models"),
        (["--small-url", "a", "--large-url", "b", "--device", "cpu"], "--device is for models"),
        (["--small-url", "a", "--large-url", "b", "--threads", "2"], "--threads is for models"),
        (["--small-url", "a", "--large-url", "b"], "steer needs either a calibration"),
        (
            ["--small-url", "a", "--large-url", "b", "--router", "steer:threshold=1:signal=margin"],
            "router 'steer' reads the signal 'margin' of whole steps",
        ),
        (
            ["--small-url", "a", "--large-url", "b", "--threshold", "2"],
            "--small-url must be the address of a server, as in http://127.0.0.1:8001, got 'a'",
        ),
    ],
)
def test_bad_input(args: list[str], said: str) -> None:
    assert said in refused("generate", QUESTION, *args)


def test_a_router_that_looks_ahead_is_refused_by_servers_without_a_gate(urls: list[str]) -> None:
    said = refused("generate", QUESTION, *urls, "--router", "first-token")
    assert "router 'first-token' reads the signal 'entropy', which needs the gate" in said
    assert "steer vllm-args" in said


def test_a_problem_of_the_demo_is_for_the_demo(urls: list[str]) -> None:
    said = refused("generate", "--problem", "math:1", *urls, *ROUTER)
    assert "--problem asks the demo pair: leave out --small-url and --large-url" in said
