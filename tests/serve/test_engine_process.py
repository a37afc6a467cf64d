"""An engine in a process of its own: the same answers, and an end of either process."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import psutil
import pytest
from serve.conftest import DEMO, demo_files
from steer_decode import Pair, Policy, SteerError
from steer_decode.errors import ContextFullError
from steer_decode.policies import POLICIES, RouterSpec
from steer_decode.serve.child import Child, EngineOptions
from steer_decode.serve.engine_process import ProcessWorker, _Sent, check_sent
from steer_decode.util.sendable import sendable
from support.served import PATIENCE, Served

QUESTIONS = ("Compute 13 -4 +7 -9 +4 -3 ?", "Compute 5 +6 ?", "Compute 1 +1 +1 +1 ?")


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "replay"])
def test_every_router_can_be_handed_over(name: str) -> None:
    needed = {"steer": {"threshold": 24.0}, "steer-cohort": {}, "percentile": {}}
    spec = RouterSpec(name, POLICIES[name], needed.get(name, {}))
    settings = {**demo_files(spec), "share": 0.5, "threshold": 0.5, "grades": "x:y"}
    known = {k: v for k, v in settings.items() if k in spec.known and k not in spec.settings}
    made = spec.make(**known)
    check_sent(made)
    data = pickle.dumps(_Sent(pickle.dumps(made)))
    found = pickle.loads(data)
    assert type(found) is type(made)
    assert found.label == made.label
    assert pickle.loads(data) is found  # one object for all answers


class Local(Policy):
    """It holds what cannot be pickled."""

    name = "local"

    def __init__(self) -> None:
        self.judge = lambda step: True


def test_a_router_that_cannot_be_handed_over_is_named() -> None:
    with pytest.raises(SteerError, match=r"router 'local' cannot be handed to the engine"):
        check_sent(Local())


class Odd(SteerError):
    """It cannot be made again of its text."""

    def __init__(self, text: str, more: int) -> None:
        super().__init__(f"{text} {more}")


def test_errors_keep_their_class_or_their_words() -> None:
    full = sendable(ContextFullError("too long"))
    assert type(pickle.loads(pickle.dumps(full))) is ContextFullError
    odd = sendable(Odd("seven", 7))
    assert (type(odd), str(odd)) == (SteerError, "seven 7")
    other = sendable(OSError(lambda: None))
    assert type(other) is RuntimeError
    assert str(other).startswith("OSError: ")


class Dying(Policy):
    """It raises what no policy may."""

    name = "dying"

    def before_step(self, start: Any) -> Any:
        raise RuntimeError("planted")


def no_pair() -> Any:
    raise ContextFullError("planted")


def killed() -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def apart(demo: Pair) -> Iterator[Served]:
    child = Child(DEMO.load, EngineOptions(8, 2**26))
    with Served(demo, files=demo_files, child=child) as server:
        yield server
    assert child.process.exitcode == 0


def events(answer: httpx2.Response) -> list[Any]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_the_router(apart: Served, question: str) -> None:
    right = apart.router.generate(question, max_new_tokens=128)
    for model in ("steer", "large"):
        told = apart.ask(question, model=model, logprobs=True).json()
        streamed = apart.ask(question, model=model, stream=True, steer={"trace": True})
        choice = told["choices"][0]
        assert len(choice["logprobs"]["content"]) == told["usage"]["completion_tokens"]
        text = "".join(
            c["delta"].get("content", "") for e in events(streamed) for c in e["choices"]
        )
        assert text == choice["message"]["content"]
        if model == "steer":
            assert text == right.text
            assert told["usage"]["completion_tokens"] == len(right.token_ids)
            assert told["usage"]["steer"]["hand_overs"] == right.cost.hand_overs


@pytest.mark.slow
def test_it_counts_and_refuses_as_one_process_does(apart: Served) -> None:
    before = apart.metric("vllm:prompt_tokens_total")
    told = apart.ask(QUESTIONS[0]).json()["usage"]
    assert apart.metric("vllm:prompt_tokens_total") - before == told["prompt_tokens"]
    apart.server.choices._alone["small"] = Dying()
    assert apart.ask(QUESTIONS[0], model="small").status_code in (400, 500)
    assert apart.ask(QUESTIONS[0]).status_code == 200
    long = apart.ask("Compute " + "1 + " * 4000 + "1 ?")
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.slow
def test_a_pair_that_cannot_be_loaded_is_said_here() -> None:
    for load, words in ((no_pair, "planted"), (killed, "was ended by SIGKILL")):
        child = Child(load, EngineOptions(1))
        with pytest.raises(SteerError, match=words):
            ProcessWorker(child, 1)
        child.stop()


@pytest.mark.slow
def test_an_engine_that_is_killed_ends_its_answers_and_is_told(demo: Pair) -> None:
    child = Child(DEMO.load, EngineOptions(8))
    with Served(demo, "large", child=child) as server:
        asked = {"model": "large", "prompt": QUESTIONS[0], "stream": True}
        url = f"{server.url}/v1/completions"
        assert child.process.pid is not None
        os.kill(child.process.pid, signal.SIGSTOP)  # else the answer might have ended before
        with httpx2.stream("POST", url, json=asked, timeout=PATIENCE) as stream:
            os.kill(child.process.pid, signal.SIGKILL)
            (only,) = (line[6:] for line in stream.iter_lines() if line.startswith("data: "))
        assert json.loads(only)["error"]["code"] == "not_serving"
        assert server.ask(QUESTIONS[0]).status_code == 503
        assert "SIGKILL" in httpx2.get(f"{server.url}/health").json()["error"]["message"]
        assert server.worker.unanswered == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGTERM, 60), (signal.SIGINT, 60), (signal.SIGTERM, 0)]
)
def test_what_is_cut_off_is_told_and_nothing_else_is_said(number: int, seconds: int) -> None:
    """By a second signal, or by the end of the time that open answers have."""
    command = [sys.executable, "-m", "steer_decode", "serve", "--port", "0", "--router", "large"]
    command += ["--shutdown-timeout", str(seconds)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        url = next(server.stderr).split(" at ")[1].split()[0]
        children = psutil.Process(server.pid).children(recursive=True)
        engine = next(child for child in children if "spawn_main" in " ".join(child.cmdline()))
        engine.suspend()  # so that what is asked is open for as long as it takes
        asked = {"model": "large", "prompt": QUESTIONS[0], "stream": True}
        with httpx2.stream("POST", f"{url}/v1/completions", json=asked, timeout=PATIENCE) as stream:
            server.send_signal(number)
            assert "1 answers to go" in next(server.stderr)
            if seconds:
                server.send_signal(number)
            (only,) = (line[6:] for line in stream.iter_lines() if line.startswith("data: "))
        assert json.loads(only)["error"]["code"] == "not_serving"
        assert server.wait(60) == (0 if number == signal.SIGTERM else 130)
        said = server.stderr.read()
    assert "Traceback" not in said
    assert "ERROR" not in said
    assert psutil.wait_procs(children, 60)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_is_left(number: int) -> None:
    command = [sys.executable, "-m", "steer_decode", "serve", "--port", "0", "--router", "large"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert " at http://" in next(server.stderr)
        children = psutil.Process(server.pid).children(recursive=True)
        server.send_signal(number)
        assert server.wait(60) == (0 if number == signal.SIGTERM else -number)
    assert children
    assert psutil.wait_procs(children, 60)[1] == []
