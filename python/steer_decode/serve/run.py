"""The server's process: it listens, and it ends in order.

After SIGTERM or Ctrl-C it takes no new request, lets those that run end, and then ends itself; a
second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import SteerError
from .app import Server

LOG = logging.getLogger("steer.serve")
_LOOK = 0.05  # seconds between two looks at what still runs
HEADER_SECONDS = 15.0
_CUT = "the server ends before the answer does"
_CUT_SECONDS = 1.0  # in which clients are told so


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes connections whose next request does not come.

    Headers are bounded by h11 itself.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look_again()

    def _look_again(self) -> None:
        self._before = self.cycle
        self.loop.call_later(HEADER_SECONDS, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._before:
            self.transport.close()
            return
        self._look_again()


class Listening(uvicorn.Server):
    """A server that drains before it ends.

    Args:
        config: of uvicorn.
        server: whose requests are waited for.
        seconds: for which they are.
        said: is called once the server listens.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server: Server,
        seconds: float,
        said: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._server, self._seconds, self._said = server, seconds, said
        self.signal: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._said()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn would leave open answers and the application as they are
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks, timeout=_CUT_SECONDS)
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        loop = asyncio.get_running_loop()
        if self.signal is not None:
            self.should_exit = self.force_exit = True
            loop.call_soon_threadsafe(self._server.worker.cut_off, _CUT)
            return
        self.signal = sig
        self._server.draining = True
        loop.call_soon_threadsafe(lambda: loop.create_task(self._drain()))

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        open_ = self._server.worker.unanswered
        LOG.info("%s: %d answers to go", signal.Signals(self.signal or 0).name, open_)
        end = loop.time() + self._seconds
        while self._server.worker.unanswered and loop.time() < end:
            await asyncio.sleep(_LOOK)
        if left := self._server.worker.unanswered:
            LOG.warning("%d answers are cut off after %g seconds", left, self._seconds)
            self._server.worker.cut_off(_CUT)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound.

    Port 0 is any that is free.

    Raises:
        SteerError: it cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise SteerError(
            f"--host {host} --port {port} cannot be listened on: {error.strerror or error}; "
            "choose another port, or 0 for any that is free"
        ) from error
    bound.set_inheritable(True)
    return bound


def run(
    app: Any,
    server: Server,
    bound: socket.socket,
    shutdown_seconds: float,
    said: Callable[[], None],
) -> int | None:
    """Serve until a signal ends it; returns that signal."""
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        backlog=2048,
    )
    listening = Listening(config, server, shutdown_seconds, said)
    listening.run(sockets=[bound])
    return listening.signal
