"""A replica of one model.

It is an engine of vLLM in this process.
It is stepped by one thread, which alone touches it. Calls come and go in the event loop.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from ...core.transcript import Writer
from ...engines.vllm.calls import Call, Order
from ...engines.vllm.flags import GATES, Installed
from ...engines.vllm.local import LocalCarrier
from ...errors import ServerError

TOKENS, END = "tokens", "end"
_NEEDED = {"logprobs_mode": "raw_logits", "disable_log_stats": True}


class EngineReplica:
    """What Ray Serve runs several of, for either model.

    Args:
        writer: which of the two models it is.
        model: hub id or folder.
        gate: the gate is to be inside.
        options: of ``vllm.LLM``, as ``{"max_model_len": 4096, "tensor_parallel_size": 2}``.
    """

    def __init__(self, writer: Writer, model: str, gate: bool, options: Mapping[str, Any]) -> None:
        # Else the engine is in a process of its own, and calls come to it by a queue more.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from vllm import LLM

        inside = [GATES[Installed.find().runner]] if gate else None
        self._llm = LLM(model=model, logits_processors=inside, **{**options, **_NEEDED})
        config = self._llm.llm_engine.model_config
        self._info = {
            "model": model,
            "context": int(config.max_model_len),
            "gated": gate,
            "pid": os.getpid(),
        }
        self._carrier = LocalCarrier(self._llm.llm_engine, f"the {writer} model {model!r}")
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._open: set[Call] = set()  # of the thread alone
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="steer-engine", daemon=True)
        self._thread.start()

    def info(self) -> dict[str, Any]:
        """Its model, context, gate, and process."""
        return self._info

    def check_health(self) -> None:
        """Tell Ray whether the replica is to be replaced.

        Raises:
            ServerError: its engine has failed.
        """
        if self._failed is not None:
            raise ServerError(f"the engine has failed: {self._failed!r}")

    async def generate(self, order: Order) -> AsyncIterator[tuple[str, Any]]:
        """Write what is asked.

        Yields:
            (TOKENS, [(token, largest logit), ...]) as they come, at last (END, cached tokens).
        """
        loop, come = asyncio.get_running_loop(), asyncio.Event()

        def told() -> None:
            loop.call_soon_threadsafe(come.set)

        call = Call(order, told)
        self._inbox.put(lambda: self._begin(call))
        given = 0
        try:
            while True:
                come.clear()
                ended, error, now = call.ended, call.error, len(call.tokens)
                if now > given:
                    yield TOKENS, [tuple(arrived) for arrived in call.tokens[given:now]]
                    given = now
                elif error is not None:
                    raise error
                elif ended:
                    yield END, call.cached
                    return
                else:
                    await come.wait()
        finally:
            self._inbox.put(lambda: self._finish(call))

    def _begin(self, call: Call) -> None:
        self._open.add(call)
        try:
            self._carrier.send(call)
        except Exception as error:  # of this request: bad input, or what vLLM makes of it
            call.fail(error)

    def _finish(self, call: Call) -> None:
        call.drop()
        self._open.discard(call)

    def _run(self) -> None:
        try:
            while True:
                self._take_in()
                self._carrier.step()
        except BaseException as error:  # whatever ends the engine ends its calls
            self._failed = error
            for call in self._open:
                call.fail(ServerError(f"{self._carrier.name} failed: {error!r}"))
            while True:
                self._inbox.get()()

    def _take_in(self) -> None:
        """Do what the inbox holds; wait for it where there is nothing to do."""
        while True:
            busy = any(not call.ended and call.error is None for call in self._open)
            try:
                self._inbox.get(block=not busy)()
            except queue.Empty:
                return
