"""The process of an engine, from start to end.

It is started before anything that takes long is imported, so that both processes import at the same
time. It hears no Ctrl-C and no SIGTERM, as its parent decides what they mean, and ends with the
pipe between them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from ..util.interruption import SIGNALS

if TYPE_CHECKING:
    from ..models.two_models import TwoModels

_END_SECONDS = 1.0  # for an iteration when the end has come; the process holds nothing to be lost
_STATUS_SECONDS = 10.0


class EngineOptions(NamedTuple):
    """How an engine is made; as of :class:`EngineCore` and :class:`Router`."""

    max_rows: int
    keep_bytes: int = 0
    interval: float = 0.0
    overlap: bool = False


class Child:
    """A process that loads a pair and answers with it.

    Args:
        load: loads the pair there; it can be pickled.
        options: of the engine.

    Attributes:
        pipe: to it; its first message is the pair, or why there is none.
    """

    def __init__(self, load: Callable[[], TwoModels], options: EngineOptions) -> None:
        self.options = options
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(
            target=_run, args=(load, options, theirs), name="steer-engine", daemon=True
        )
        # It is started by the first child, and unblocks signals as it is.
        resource_tracker.ensure_running()
        # A blocked signal stays blocked in the child until its first line ignores it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        # Before the interpreter, at its exit, would wait for a child that hears no signal.
        Finalize(self, _end, (self.process,), exitpriority=1)

    def stop(self) -> None:
        """End it, whatever it is at."""
        with suppress(OSError):  # it has ended before
            self.pipe.send(None)
        self.process.join(_END_SECONDS)
        _end(self.process)
        self.pipe.close()

    def how_it_ended(self) -> str:
        """What has become of a process whose pipe has ended."""
        self.process.join(_STATUS_SECONDS)
        status = self.process.exitcode
        if status is None or status >= 0:
            return f"has ended with status {status}"
        return f"was ended by {signal.Signals(-status).name}"


def _end(process: BaseProcess) -> None:
    process.kill()
    process.join()


def _run(load: Callable[[], TwoModels], options: EngineOptions, pipe: Connection) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    from .engine_main import answer

    answer(load, inbox, pipe, *options)
    sys.stderr.flush()
    os._exit(0)  # to take down what was imported would take a second, and there is nothing else


def _receive(pipe: Connection, inbox: SimpleQueue[Any]) -> None:
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(1)  # without a parent there is nothing to load or answer for
