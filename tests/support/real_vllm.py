"""Engines and servers of vLLM over the demo pair, for `make test-vllm`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from steer_decode import RoutedOutput

# The weights are stored in bfloat16; on a CPU a block has 32 tokens or a multiple of them.
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "logprobs_mode": "raw_logits",
    "max_num_seqs": 16,
    "block_size": 32,
    "kv_cache_memory_bytes": 64 << 20,
    "max_model_len": 512,
    "disable_log_stats": True,
}


def same(
    found: Sequence[RoutedOutput], wanted: Sequence[RoutedOutput], scored: bool = True
) -> None:
    """The same tokens by the same writers, step by step, and their scores."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.token_ids == other.token_ids
        assert one.text == other.text
        for a, b in zip(one.trace.steps, other.trace.steps, strict=True):
            assert (a.writer, a.token_ids, a.discarded) == (b.writer, b.token_ids, b.discarded)
            assert not scored or a.score == pytest.approx(b.score, abs=2e-5)
        assert one.trace.stop_reason == other.trace.stop_reason
        assert one.cost.hand_overs == other.cost.hand_overs


class RealServer:
    """A server of vLLM in processes of its own, for the length of a `with` block.

    Args:
        folder: of the model.
        name: that it is served by.
        log: file for what it prints.
        more: arguments.
    """

    def __init__(self, folder: Path, name: str, log: Path, *more: str, port: int = 0) -> None:
        self._log, self.port = log, port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(folder), "--served-model-name", name),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "16"),
            *("--logprobs-mode", "raw_logits", "--enable-prompt-tokens-details"),
            *("--enforce-eager", "--block-size", "32"),
            *more,
        ]

    def begin(self) -> RealServer:
        """Start it; :meth:`__enter__` waits until it answers."""
        self._file = self._log.open("a")
        environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        self._process = subprocess.Popen(
            self._command,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        return self

    def __enter__(self) -> RealServer:
        while True:
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.25)

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # all of its session, workers too
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._file.close()

    def kill_worker(self) -> None:
        """End the process that runs the model, as a machine does that runs out of memory."""
        (engine,) = [
            child
            for child in psutil.Process(self._process.pid).children()
            if "EngineCore" in " ".join(child.cmdline()) or "EngineCore" in child.name()
        ]
        workers = engine.children()
        (workers[0] if workers else engine).kill()

    def wait(self) -> None:
        """Until its process has ended by itself."""
        self._process.wait()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
