"""A server that speaks as much of vLLM's interface as is used, over a tiny model of transformers.

It reads every text from scratch, and remembers which texts it has read for the cached-token counts.
Faults are put in by a test: each request takes the next of them.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace, TracebackType
from typing import Any

import torch
from steer_decode import get_signal
from steer_decode.core.token_text import TokenTexts, decode
from steer_decode.engines.vllm.gate_args import GateArgs, check_request
from steer_decode.engines.vllm.gate_tokens import GateTokens
from support.vllm_interfaces import gate_v1
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steer_kernels import logit_stats

_ONE = threading.Lock()  # one pass at a time, in whatever thread


class StubVllm:
    """A server on a free port, for the length of a `with` block.

    Args:
        model, tokenizer: of which it has one.
        name: that clients call the model by.
        root: what it says that it was started with.
        context: longest text.
        mode: what it gives as logprobs: raw_logits, raw_logprobs or processed_logits.
        key: that it asks for.
        gate: the gate is inside.

    Attributes:
        faults: of the next requests for tokens: "500", "drop", "error", "silence" or "busy", after
            so many tokens, as in ("error", 3); None is none.
        asked: bodies and headers of all requests for tokens.
        going: requests that are being answered.
        pace: seconds before each token.
        held: no token is given while it is not set.
        more: models that it has besides, as it lists them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "tiny",
        root: str = "/nowhere/tiny",
        context: int = 512,
        mode: str = "raw_logits",
        key: str = "",
        port: int = 0,
        gate: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.name, self.root = model, tokenizer, name, root
        self.context, self.mode, self.key = context, mode, key
        self.faults: deque[tuple[str, int] | None] = deque()
        self.asked: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.read: list[list[int]] = []
        self.going, self.pace, self.gate = 0, 0.0, gate
        self.more: list[dict[str, Any]] = []
        self.held = threading.Event()
        self.held.set()
        self.size = TokenTexts.of(tokenizer).size
        self.tokens_of_steps = GateTokens(tokenizer)
        stub = self

        class Handler(_Handler):
            server_of_test = stub

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> StubVllm:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def settle(self) -> None:
        """Wait until it notices that nobody reads what it writes any more."""
        self.held.set()
        self.pace = 0.0
        while self.going:
            time.sleep(0.002)

    def cached(self, ids: list[int]) -> int:
        """Tokens of ``ids`` that it has read; the last is always read."""
        common = [0]
        for text in self.read:
            same = (i for i, (a, b) in enumerate(zip(text, ids, strict=False)) if a != b)
            common.append(next(same, min(len(text), len(ids))))
        return min(max(common), len(ids) - 1)

    def logits(self, ids: list[int], temperature: float) -> torch.Tensor:
        with _ONE, torch.no_grad():
            raw = self.model(torch.tensor([ids])).logits[0, -1, : self.size].float()
        if self.mode == "raw_logprobs":
            return raw.log_softmax(-1)
        return raw / (temperature or 1.0) if self.mode == "processed_logits" else raw

    def tokens(
        self, body: dict[str, Any]
    ) -> Iterator[tuple[int, list[tuple[int, float]], str | None]]:
        """Each token, the likeliest with their values, and why it is the last."""
        ids, temperature = list(body["prompt"]), body.get("temperature", 1.0)
        chance = torch.Generator().manual_seed(body.get("seed") or 0)
        most = min(body["max_tokens"], self.context - len(ids))
        out: list[int] = []
        gate = self._gate(body, out)
        for n in range(1, most + 1):
            self.held.wait()
            time.sleep(self.pace)
            values = self.logits(ids, temperature)
            top = torch.topk(values, min(body["logprobs"], self.size))
            token = int(top.indices[0])
            if temperature:
                drawn = torch.multinomial((values / temperature).softmax(-1), 1, generator=chance)
                token = int(drawn)
            if gate is not None and gate(values):
                token = int(body["vllm_xargs"]["steer_handoff"])
            found = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            self.read.append(list(ids))
            ids.append(token)
            out.append(token)
            over = token in body["stop_token_ids"]
            yield token, found, "stop" if over else "length" if n == most else None
            if over:
                return

    def _gate(self, body: dict[str, Any], out: list[int]) -> Callable[[torch.Tensor], bool] | None:
        """Whether the request ends before the token of these logits; by the gate of V1."""
        args = GateArgs.read(body.get("vllm_xargs")) if self.gate else None
        if args is None:
            return None
        request = gate_v1._Request(args, out, self.tokens_of_steps)
        signal = get_signal(args.rule.signal)

        def over(values: torch.Tensor) -> bool:
            return request.hands_over(float(signal.read(logit_stats(values[None], 2))[0]))

        return over


class _Handler(BaseHTTPRequestHandler):
    server_of_test: StubVllm
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        stub = self.server_of_test
        if not self._let_in():
            return
        if self.path == "/v1/models":
            model = {"id": stub.name, "root": stub.root, "max_model_len": stub.context}
            self._json(200, {"object": "list", "data": [model, *stub.more]})
        else:
            self._error(404, "Not Found")

    def do_POST(self) -> None:
        stub = self.server_of_test
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._let_in():
            return
        if body["model"] != stub.name:
            self._error(404, f"The model `{body['model']}` does not exist.")
        elif self.path == "/detokenize":
            self._json(200, {"prompt": decode(stub.tokenizer, body["tokens"])})
        elif self.path == "/v1/completions":
            self._complete(body)
        else:
            self._error(404, "Not Found")

    def _let_in(self) -> bool:
        key = self.server_of_test.key
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self._json(401, {"error": "Unauthorized"})
            return False
        return True

    def _complete(self, body: dict[str, Any]) -> None:
        stub = self.server_of_test
        if len(body["prompt"]) >= stub.context:
            self._error(400, f"This model's maximum context length is {stub.context} tokens.")
            return
        try:
            if stub.gate:
                given = {name: body.get(name) for name in ("stop_token_ids", "n")}
                check_request(SimpleNamespace(extra_args=body.get("vllm_xargs"), **given))
        except ValueError as error:
            self._error(400, str(error))
            return
        if not body.get("stream"):
            token, top, why = next(iter(stub.tokens(body)))
            choice = {"index": 0, **_told(token, top), "finish_reason": why}
            self._json(200, {"choices": [choice], "usage": {}})
            return
        stub.asked.append((body, dict(self.headers)))
        fault, after = (stub.faults.popleft() if stub.faults else None) or ("", 0)
        if fault in ("500", "busy"):
            self._error(500 if fault == "500" else 503, "the engine is dead")
            return
        stub.going += 1
        try:
            self._stream(body, fault, after)
        except (BrokenPipeError, ConnectionError):
            self.close_connection = True
        finally:
            stub.going -= 1

    def _stream(self, body: dict[str, Any], fault: str, after: int) -> None:
        stub = self.server_of_test
        cached = stub.cached(body["prompt"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        written = 0
        for token, top, why in stub.tokens(body):
            if fault and written == after:
                if fault == "error":
                    self._event({"error": {"message": "EngineCore died", "code": 500}})
                    self._say("data: [DONE]\n\n")
                if fault == "silence":
                    stub.held.clear()
                    stub.held.wait()
                return
            written += 1
            choice = {"index": 0, "text": "x", **_told(token, top), "finish_reason": why}
            self._event({"choices": [choice]})
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": written}
        details = {"prompt_tokens_details": {"cached_tokens": cached}}
        self._event({"choices": [], "usage": {**usage, **details}})
        self._say("data: [DONE]\n\n")

    def _event(self, data: Any) -> None:
        self._say(f"data: {json.dumps(data)}\n\n")

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"error": {"message": message, "code": status}})

    def _json(self, status: int, data: Any) -> None:
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _told(token: int, top: list[tuple[int, float]]) -> dict[str, Any]:
    tops = {f"token_id:{i}": value for i, value in top}
    return {"token_ids": [token], "logprobs": {"top_logprobs": [tops]}}
