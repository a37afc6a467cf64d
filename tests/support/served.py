"""A server that answers on a free port, for the length of a `with` block."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import httpx2
import uvicorn
from steer_decode import Pair, Router
from steer_decode.policies import RouterSpec
from steer_decode.serve.app import Server, application
from steer_decode.serve.child import Child
from steer_decode.serve.choices import Choices, nameable
from steer_decode.serve.engine_process import ProcessWorker
from steer_decode.serve.intake import Intake
from steer_decode.serve.run import Listening, PatientProtocol, listen
from steer_decode.serve.worker import ThreadWorker

PATIENCE = 600.0  # seconds, after which what hangs is said to hang; busy machines are slow


class Served:
    """A pair behind a server, in a thread of this process.

    Args:
        child: that has the pair too and answers; by default another thread does.

    Attributes:
        url: where it listens.
        worker: its engine.
        router: what answers a request that says nothing.
    """

    def __init__(
        self,
        pair: Pair,
        router: str = "both-sides",
        *,
        files: Any = None,
        allowed: Any = None,
        max_rows: int = 8,
        max_queue: int = 64,
        keep_bytes: int = 0,
        max_new_tokens: int = 128,
        timeout: float = PATIENCE,
        child: Child | None = None,
        **doors: Any,
    ) -> None:
        spec = RouterSpec.read(router)
        allowed = nameable() if allowed is None else allowed
        choices = Choices(pair, spec, files or (lambda _: {}), allowed)
        self.router = Router(pair, choices.default)
        self.worker: Any
        if child is None:
            self.worker = ThreadWorker(self.router, max_rows, max_queue, keep_bytes)
        else:
            self.worker = ProcessWorker(child, max_queue)
        intake = Intake(pair, choices, max_new_tokens, 0.0, timeout)
        self.server = Server(self.worker, choices, intake)
        self._bound = listen("127.0.0.1", 0)
        config = uvicorn.Config(
            application(self.server, **doors),
            http=PatientProtocol,
            log_config=None,
            log_level="error",
            timeout_graceful_shutdown=2,
        )
        self._started = threading.Event()
        self._listening = Listening(config, self.server, 5.0, self._started.set)
        sockets = [self._bound]
        self._thread = threading.Thread(target=self._listening.run, kwargs={"sockets": sockets})
        self.url = f"http://127.0.0.1:{self._bound.getsockname()[1]}"

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._started.wait(PATIENCE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def post(self, path: str = "/v1/chat/completions", **options: Any) -> httpx2.Response:
        """One request, its answer whole."""
        return httpx2.post(f"{self.url}{path}", timeout=PATIENCE, **options)

    def ask(self, question: str, **fields: Any) -> httpx2.Response:
        """A chat completion for one question."""
        asked = {"model": "steer", "messages": [{"role": "user", "content": question}], **fields}
        return self.post(json=asked)

    def metric(self, name: str, **labels: str) -> float:
        """A number that it has counted."""
        found = self.worker.metrics.registry.get_sample_value(
            name, {"model_name": "steer", **labels}
        )
        return found or 0.0

    def settle(self) -> None:
        """Wait until nothing runs or waits."""
        end = time.monotonic() + PATIENCE
        while self.worker.unanswered or len(self.worker.core.pool):
            assert time.monotonic() < end, "an answer has not ended"
            time.sleep(0.002)
