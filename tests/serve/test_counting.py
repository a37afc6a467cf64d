"""Metrics, prefixes that are kept, and spans."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve.conftest import demo_files
from steer_decode import Pair, SteerError
from support.served import Served

QUESTION = "Compute 13 -4 +7 -9 +4 -3 ?"


def test_metrics_count_what_the_answers_say(demo: Pair) -> None:
    with Served(demo, "speculative:k=4", files=demo_files, max_new_tokens=60) as server:
        told = server.ask(QUESTION).json()["usage"]
        server.ask(QUESTION, stream=True)
        server.ask("Compute 1 +1 ?", max_tokens=-1)
        server.settle()
        steer = told["steer"]
        assert server.metric("vllm:prompt_tokens_total") == 2 * told["prompt_tokens"]
        assert server.metric("vllm:generation_tokens_total") == 2 * told["completion_tokens"]
        assert server.metric("steer_draft_tokens_total") == 2 * steer["drafted"]
        assert server.metric("steer_accepted_tokens_total") == 2 * steer["accepted"]
        assert server.metric("steer_hand_overs_total") == 2 * steer["hand_overs"]
        assert server.metric("vllm:time_to_first_token_seconds_count") == 2
        assert server.metric("vllm:e2e_request_latency_seconds_count") == 2
        flops = sum(server.metric("steer_flops_processed_total", writer=w) for w in WRITERS)
        assert flops == pytest.approx(2 * steer["cost"]["flops_processed"])
        assert server.metric("vllm:num_requests_running") == 0
        text = httpx2.get(f"{server.url}/metrics").text
        families = {family.name for family in text_string_to_metric_families(text)}
        assert {"vllm:num_requests_waiting", "steer_held_bytes", "steer_requests"} <= families


WRITERS = ("small", "large")


def test_a_conversation_that_comes_back_reads_only_what_is_new(demo: Pair) -> None:
    prompt = demo.encode(QUESTION)
    with Served(demo, "large", keep_bytes=2**26) as server:

        def ask(ids: list[int]) -> Any:
            asked = {"model": "large", "prompt": ids, "max_tokens": 40}
            return server.post("/v1/completions", json=asked).json()

        first = ask(prompt)
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        output = server.router.generate(prompt, max_new_tokens=40)
        again = ask([*prompt, *output.token_ids[:-1], *prompt])
        read = len(prompt) + len(output.token_ids) - 1
        assert again["usage"]["steer"]["cached"]["large"] == read
        assert server.metric("steer_prefix_tokens_spared_total", writer="large") == read
        right = server.router.generate(
            [*prompt, *output.token_ids[:-1], *prompt], max_new_tokens=40
        )
        assert again["choices"][0]["text"] == right.text


def test_spans_need_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from steer_decode.serve.spans import Spans

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SteerError, match="pip install opentelemetry-sdk"):
        Spans("http://127.0.0.1:4318")


@pytest.fixture
def collector() -> Iterator[tuple[str, list[str]]]:
    """Where spans are sent over HTTP: its address, and the paths that were posted to."""
    posted: list[str] = []

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            posted.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", posted
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("router", ["first-token", "both-sides"])
@pytest.mark.few(1)
def test_a_request_its_steps_and_hand_overs_are_spans(
    demo: Pair, router: str, collector: tuple[str, list[str]]
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from steer_decode.serve.spans import Spans

    kept = InMemorySpanExporter()
    with Served(demo, router, files=demo_files) as server:
        spans = Spans(collector[0])
        spans._provider.add_span_processor(SimpleSpanProcessor(kept))
        server.server.spans = spans
        usage = server.ask(QUESTION, stream=False).json()["usage"]
        server.settle()
    spans.close()  # sends what has not gone out; nothing of it is left behind
    assert set(collector[1]) == {"/v1/traces"}
    *steps, answer = kept.get_finished_spans()
    assert answer.name == "answer"
    assert answer.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    overs = [event for event in answer.events if event.name == "hand-over"]
    assert len(overs) == usage["steer"]["hand_overs"]
    assert all(step.parent.span_id == answer.context.span_id for step in steps)
    assert answer.start_time <= steps[0].start_time <= steps[-1].end_time
