"""Bad input: the fitting 4xx with a sentence, and nothing else slowed."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steer_decode import Pair
from steer_decode.cli import app
from steer_decode.cli.models import Models
from steer_decode.serve import run
from steer_decode.serve.requests import ChatRequest, TextRequest
from steer_decode.serve.stops import Stops
from support.selection import examples
from support.served import PATIENCE, Served
from typer.testing import CliRunner

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER: Any = [{"role": "user", "content": "Compute 1 +2 ?"}]
JSON = {"Content-Type": "application/json"}

BODIES: dict[str, tuple[bytes, str]] = {
    "no json": (b"{", "no JSON"),
    "empty": (b"", "the body"),
    "a list": (b"[]", "the body"),
    "nested": (b"[" * 100_000, "body"),
    "a long number": (b'{"model": "steer", "n": ' + b"9" * 5000 + b"}", "body"),
    "nan": (b'{"model": "steer", "temperature": NaN, "messages": []}', "temperature"),
    "not utf-8": (b'{"model": "\xff"}', "body"),
    "no model": (b'{"messages": []}', "model"),
}


def refused(found: httpx2.Response, word: str) -> None:
    assert 400 <= found.status_code < 500, found.text
    error = found.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert word in error["message"], error
    assert len(error["message"]) < 700


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_none(served: Served, name: str) -> None:
    body, word = BODIES[name]
    refused(served.post(CHAT, content=body, headers=JSON), word)


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "model of another type": ({"model": 5}, "model"),
    "no messages": ({"messages": []}, "messages"),
    "messages of another type": ({"messages": "hello"}, "messages"),
    "a message without a role": ({"messages": [{"content": "x"}]}, "messages[0].role"),
    "an unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    "no content": ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    "an empty text": ({"messages": [{"role": "user", "content": ""}]}, "prompt"),
    "no user": ({"messages": [{"role": "assistant", "content": "x"}]}, "template"),
    "half a character": ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of one"),
    "a negative count": ({"max_tokens": -1}, "max_tokens"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "a count as text": ({"max_tokens": "7"}, "max_tokens"),
    "half a token": ({"max_tokens": 7.5}, "max_tokens"),
    "a switch as count": ({"n": True}, "n"),
    "too many choices": ({"n": 10**6}, "n"),
    "negative temperature": ({"temperature": -1}, "temperature"),
    "top_p of 0": ({"top_p": 0}, "top_p"),
    "top_p above 1": ({"top_p": 1.5}, "top_p"),
    "too many stops": ({"stop": ["x"] * 10_000}, "stop"),
    "an empty stop": ({"stop": ""}, "stop"),
    "a long stop": ({"stop": "x" * 10_000}, "stop"),
    "too many likeliest": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "likeliest alone": ({"top_logprobs": 2}, "top_logprobs"),
    "steer of another type": ({"steer": 5}, "steer"),
    "an unknown argument": ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
    "the template itself": ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields(served: Served, name: str) -> None:
    fields, word = FIELDS[name]
    body = json.dumps({"model": "steer", "messages": USER, **fields}).encode()
    refused(served.post(CHAT, content=body, headers=JSON), word)


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("", "prompt"),
        ([], "prompt"),
        ([10**9], "prompt"),
        ([-1], "prompt"),
        (["x", 5], "prompt"),
        ([[]], "prompt"),
        (["x"] * 1000, "prompt"),
        ({"x": 1}, "prompt"),
    ],
)
def test_prompts(served: Served, prompt: Any, word: str) -> None:
    refused(served.post(TEXT, json={"model": "steer", "prompt": prompt}), word)


def test_large_bodies_are_refused_within_a_second_and_slow_nobody(served: Served) -> None:
    begin = time.process_time()  # of the server too, whatever else the machine does
    assert served.post(CHAT, content=b"x" * 10_000_000, headers=JSON).status_code == 413
    assert time.process_time() - begin < 1


def test_headers_without_end(served: Served) -> None:
    port = int(served.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as flood:
        flood.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        answer = b""
        try:
            for i in range(2000):
                flood.sendall(f"X-{i}: {'y' * 100}\r\n".encode())
            answer = flood.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert answer == b"" or b" 400 " in answer
    assert httpx2.get(f"{served.url}/health").status_code == 200


def test_a_request_that_does_not_come_is_not_waited_for(
    demo: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "HEADER_SECONDS", 0.1)
    with Served(demo, "large") as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as late:
            late.sendall(b"GET /health HT")
            late.settimeout(20)
            assert late.recv(10) == b""  # closed
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.shutdown(socket.SHUT_WR)
            half.settimeout(20)
            assert half.recv(10) == b""


def test_keys_and_ids(demo: Pair) -> None:
    with Served(demo, "large", key="right") as server:
        asked = {"model": "large", "messages": USER}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}):
            found = server.post(json=asked, headers=headers)
            assert found.status_code == 401
            assert found.json()["error"]["code"] == "invalid_api_key"
            assert found.headers["WWW-Authenticate"] == "Bearer"
        headers = {"Authorization": "Bearer right", "X-Request-Id": "mine-1"}
        found = server.post(json=asked, headers=headers)
        assert found.status_code == 200
        assert found.headers["X-Request-Id"] == "mine-1"
        strange = {**headers, "X-Request-Id": "a b\tc" * 100}
        assert server.post(json=asked, headers=strange).headers["X-Request-Id"].isalnum()
        for path in ("health", "ready", "version", "metrics", ""):
            assert httpx2.get(f"{server.url}/{path}").status_code == 200


@pytest.mark.parametrize("path", [CHAT, TEXT, "/v1/models"])
@pytest.mark.few(1)
def test_pages_of_others_are_kept_out_unless_the_operator_names_them(demo: Pair, path: str) -> None:
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with Served(demo, "large") as server:
        found = httpx2.options(f"{server.url}{path}", headers=ask)
        assert "access-control-allow-origin" not in found.headers
    with Served(demo, "large", origins=["https://a.example"], key="k") as server:
        found = httpx2.options(f"{server.url}{path}", headers=ask)
        assert found.status_code == 200
        assert found.headers["access-control-allow-origin"] == "https://a.example"
        other = {**ask, "Origin": "https://b.example"}
        found = httpx2.options(f"{server.url}{path}", headers=other)
        assert found.headers.get("access-control-allow-origin") != "https://b.example"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--router", "steer-cohort"], "judges the answers of a cohort together"),
        (["--router", "percentile"], "judges the answers of a cohort together"),
        (["--router", "nobody"], "unknown router 'nobody'"),
        (["--allow", "nonsense"], "--allow 'nonsense' is no router"),
        (["--allow", "steer-cohort"], "--allow 'steer-cohort' is no router"),
        (["--api-key-file", "/no/such/key"], "No such file"),
        (["--host", "not a host"], "cannot be listened on"),
    ],
)
def test_a_server_that_cannot_serve_does_not_start(options: list[str], words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Models, "load", lambda self: pytest.fail("models were loaded"))
        found = CliRunner().invoke(app, ["serve", "--port", "0", *options])
    assert found.exit_code == 2, found.output
    assert words in found.output


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-10, 10) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def _some(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), _ANY, max_size=3)


@examples(40, 150)
def test_nothing_that_a_client_sends_is_a_fault_of_the_server(
    served: Served, examples: int
) -> None:
    @settings(max_examples=examples)
    @given(
        fields=_some(sorted(ChatRequest.model_fields)),
        text=_some(sorted(TextRequest.model_fields)),
        steer=st.none() | _some(["router", "share", "threshold", "trace"]),
    )
    def answers(fields: dict[str, Any], text: dict[str, Any], steer: Any) -> None:
        chat = {"model": "large", "messages": USER, "max_tokens": 2, "steer": steer, **fields}
        for path, body in [
            (CHAT, chat),
            (TEXT, {"model": "large", "prompt": "x", "max_tokens": 2, **text}),
        ]:
            try:
                sent = json.dumps(body).encode()
            except UnicodeEncodeError:
                continue
            found = http.post(path, content=sent, headers=JSON)
            assert found.status_code < 500, found.text
            if found.status_code >= 400:
                assert found.json()["error"]["message"]

    with httpx2.Client(base_url=served.url, timeout=PATIENCE) as http:
        answers()


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_stops_cut_where_the_whole_text_would_be(pieces: list[str], stops: list[str]) -> None:
    text, found, shown, done = "".join(pieces), Stops(stops), 0, False
    for i, piece in enumerate(pieces):
        room, done = found.push(piece)
        shown += room
        so_far = "".join(pieces[: i + 1])
        assert shown <= len(so_far)
        if done:
            break
    found_at = [(at + len(s), at) for s in stops if (at := text.find(s)) >= 0]
    assert done == bool(found_at)
    if done:
        assert shown == min(found_at)[1]  # the one that is complete first
    else:
        held = len(text) - shown
        assert held < max(map(len, stops), default=1)
        assert held == 0 or any(stop.startswith(text[shown:]) for stop in stops)
