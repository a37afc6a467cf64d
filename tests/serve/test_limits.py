"""What a server does when there is too much: of requests, of text, of time, and of its own end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serve.conftest import demo_files
from steer_decode import Pair, Policy
from support.served import PATIENCE, Served

QUESTION = "Compute 13 -4 +7 -9 +4 -3 ?"
ASKED = {"model": "large", "messages": [{"role": "user", "content": QUESTION}]}


def eventually(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def slow(demo: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, threading.Event]]:
    """A server with one row and room for one that waits, whose engine goes on when it may."""
    with Served(demo, "large", max_rows=1, max_queue=1) as server:
        go = threading.Event()
        iterate = server.worker.core.pool.iterate

        def iterating() -> Any:
            if len(server.worker.core.pool):
                go.wait(0.01)
                if not go.is_set():
                    return
            yield from iterate()

        monkeypatch.setattr(server.worker.core.pool, "iterate", iterating)
        yield server, go
        go.set()


def asking(server: Served, **fields: Any) -> tuple[threading.Thread, list[httpx2.Response]]:
    found: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: found.append(server.ask(QUESTION, **fields)))
    thread.start()
    return thread, found


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(
    slow: tuple[Served, threading.Event],
) -> None:
    server, go = slow
    some = [asking(server) for _ in range(2)]
    eventually(lambda: server.worker.unanswered == 2)
    refused = server.ask(QUESTION)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert server.ask(QUESTION, n=2).status_code == 429  # all choices or none
    go.set()
    for thread, found in some:
        thread.join(30)
        assert found[0].status_code == 200
    assert server.ask(QUESTION).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_row(
    slow: tuple[Served, threading.Event], stream: bool
) -> None:
    server, go = slow
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as gone:
        body = json.dumps({**ASKED, "stream": stream}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        gone.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        eventually(lambda: len(server.worker.core.pool) == 1)
    eventually(lambda: len(server.worker.core.pool) == 0)  # though the engine has not gone on
    assert not go.is_set()
    eventually(lambda: server.worker.unanswered == 0)
    assert server.metric("steer_requests_total", how="cancelled") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long(demo: Pair, stream: bool) -> None:
    with Served(demo, "large", timeout=0.0) as server:
        found = server.ask(QUESTION, stream=stream)
        if stream:
            last = found.text.strip().split("\n\n")[-1]
            error = json.loads(last.removeprefix("data: "))["error"]
        else:
            assert found.status_code == 504
            error = found.json()["error"]
        assert error["code"] == "timeout"
        server.settle()


def test_bodies_are_bounded(demo: Pair) -> None:
    with Served(demo, "large", most_bytes=4096) as server:
        assert server.post(json={"x": "y" * 5000}).status_code == 413

        def chunks() -> Iterator[bytes]:
            yield from [b'{"model": "' + b"x" * 1000] * 6

        found = server.post(content=chunks(), headers={"Content-Type": "application/json"})
        assert found.status_code == 413
        assert found.json()["error"]["code"] == "body_too_large"


def test_the_time_of_a_body_is_bounded(demo: Pair) -> None:
    with (
        Served(demo, "large", body_seconds=0.3) as server,
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as late,
    ):
        late.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b" 408 " in late.recv(4096).partition(b"\r\n")[0]


class Dying(Policy):
    """It raises what no policy may."""

    name = "dying"

    def before_step(self, start: Any) -> Any:
        raise RuntimeError("planted")


def test_a_policy_that_raises_ends_its_answer_and_no_other(demo: Pair) -> None:
    with Served(demo, "large") as server:
        server.server.choices._alone["small"] = Dying()
        assert server.ask(QUESTION, model="small").status_code in (400, 500)
        assert server.ask(QUESTION).status_code == 200
        assert httpx2.get(f"{server.url}/health").status_code == 200


def test_an_engine_that_dies_answers_503(demo: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(demo, "large") as server:

        def dying() -> Any:
            raise RuntimeError("planted")
            yield

        monkeypatch.setattr(server.worker.core.pool, "iterate", dying)
        assert server.ask(QUESTION).status_code == 503  # the one at which it dies
        for found in (server.ask(QUESTION), *map(httpx2.get, (f"{server.url}/{p}" for p in PATHS))):
            assert found.status_code == 503
            assert found.json()["error"]["type"] == "server_error"


def test_what_was_in_the_queue_when_the_engine_died_is_answered_too(
    demo: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Served(demo, "large", max_rows=1) as server:
        here, go = threading.Event(), threading.Event()

        def dying() -> Any:
            here.set()
            go.wait(600)
            raise RuntimeError("planted")
            yield

        monkeypatch.setattr(server.worker.core.pool, "iterate", dying)
        first = asking(server)
        assert here.wait(600)
        second = asking(server)  # it stands in the queue, unseen by the engine
        eventually(lambda: server.worker.unanswered == 2)
        go.set()
        for thread, found in (first, second):
            thread.join(600)
            assert found[0].status_code == 503
        eventually(lambda: server.worker.unanswered == 0)


class Unready(Policy):
    """It cannot begin."""

    name = "unready"

    def start(self) -> Policy:
        raise RuntimeError("planted")

    def question(self, pair: Pair) -> Any:
        raise RuntimeError("planted")


def test_a_policy_that_cannot_begin_ends_its_answer_and_no_other(demo: Pair) -> None:
    with Served(demo, "large") as server:
        server.server.choices._alone["small"] = Unready()
        assert server.ask(QUESTION, model="small").status_code == 500
        assert server.ask(QUESTION).status_code == 200


PATHS = ("health", "ready")


class Listening:
    """`steer serve` as a process."""

    def __init__(self, *options: str, **more: Any) -> None:
        command = [sys.executable, "-m", "steer_decode", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more)
        assert self.process.stderr is not None
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line)
            if " at http://" in line:
                self.url = line.split(" at ")[1].split()[0]
                break
        self.rest = threading.Thread(target=lambda: self.said.extend(self.process.stderr))  # type: ignore[arg-type]
        self.rest.start()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(60)
        self.rest.join(10)
        return status


@pytest.mark.slow
def test_sigterm_lets_open_streams_end_and_takes_no_more() -> None:
    server = Listening("--router", "large", "--max-new-tokens", "400")
    assert "no key is asked for" in "".join(server.said)
    prompt = "Compute 13 -4"
    asked = {"model": "large", "prompt": prompt, "stream": True, "max_tokens": 400}
    with httpx2.stream(
        "POST", f"{server.url}/v1/completions", json=asked, timeout=PATIENCE
    ) as stream:
        lines = stream.iter_lines()
        first = next(lines)
        assert first.startswith("data: ")
        server.process.send_signal(signal.SIGTERM)
        seen = {
            httpx2.get(f"{server.url}/ready").status_code,
            httpx2.post(f"{server.url}/v1/completions", json=asked).status_code,
        }
        rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2][6:])["choices"][0]["finish_reason"]
    assert seen <= {503}
    assert server.process.wait(60) == 0
    server.rest.join(10)
    assert server.said[-1] == "steer: ended\n"


@pytest.mark.slow
def test_ctrl_c_ends_it_with_its_own_status() -> None:
    server = Listening("--router", "large")
    assert httpx2.get(f"{server.url}/ready").status_code == 200
    assert server.end(signal.SIGINT) == 130


@pytest.mark.slow
def test_a_key_from_the_environment_and_a_port_that_is_taken(tmp_path: Path) -> None:
    import os

    server = Listening("--router", "large", env={**os.environ, "STEER_API_KEY": "secret"})
    try:
        assert "a key is asked for" in "".join(server.said)
        assert httpx2.post(f"{server.url}/v1/completions", json={}).status_code == 401
        port = server.url.rpartition(":")[2]
        command = [sys.executable, "-m", "steer_decode", "serve", "--port", port]
        second = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert second.returncode == 2
        assert f"--port {port} cannot be listened on" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        assert server.end() == 0
    assert "secret" not in "".join(server.said)


def test_steps_stay_unseen_by_those_who_do_not_ask(demo: Pair) -> None:
    with Served(demo, "both-sides", files=demo_files) as server:
        text = server.ask(QUESTION, stream=True).text
        assert '"steer":{' not in text
