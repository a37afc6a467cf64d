"""An engine in a process of its own.

Python runs one thread of a process at a time, so that an engine and a server in one process wait
for each other: reading requests and writing events took a quarter of the engine's time. Here the
models are loaded and run in a child, and what is asked and told crosses a pipe.
"""

from __future__ import annotations

import functools
import logging
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import SteerError
from ..policies import Policy
from .child import Child
from .engine_core import Batch, ToEngine
from .worker import Worker

LOG = logging.getLogger("steer.serve")
_POLICIES = 128  # that either side remembers


def check_sent(policy: Policy) -> None:
    """Refuse a policy that cannot be handed to the engine.

    Raises:
        SteerError: it cannot be pickled.
    """
    try:
        pickle.loads(pickle.dumps(policy))
    except Exception as error:
        raise SteerError(
            f"router {policy.label!r} cannot be handed to the engine, which is a process of its "
            f"own: {type(error).__name__}: {error}; make it of values that pickle takes"
        ) from error


class ProcessWorker(Worker):
    """An engine in a process of its own.

    Args:
        child: that process.
        max_queue: of :class:`Worker`.

    Raises:
        SteerError: the pair cannot be loaded, or the process has ended meanwhile.
    """

    def __init__(self, child: Child, max_queue: int) -> None:
        try:
            told = child.pipe.recv()
        except (EOFError, OSError):
            told = SteerError(f"the process that loads the models {child.how_it_ended()}")
        if isinstance(told, BaseException):
            raise told
        super().__init__(told, child.options.max_rows, max_queue)
        self.child, self._stopping = child, False
        self._pickled: dict[int, tuple[Policy, bytes]] = {}  # by identity

    def stop(self) -> None:
        self._stopping = True
        self.child.stop()

    def _begin(self, send: Callable[[Batch], object]) -> None:
        threading.Thread(
            target=self._listen, args=(send,), name="steer-listener", daemon=True
        ).start()

    def _listen(self, send: Callable[[Batch], object]) -> None:
        try:
            batch = Batch([])
            while batch.failed is None:
                batch = self.child.pipe.recv()
                send(batch)
        except (EOFError, OSError):
            if not self._stopping:
                how = f"its process {self.child.how_it_ended()}"
                LOG.error("the engine has failed, %s; the server answers nothing more", how)
                send(Batch([], failed=how))

    def _ask(self, message: ToEngine) -> None:
        request = message.request
        if request is not None:
            message = message._replace(request=request._replace(policy=self._sent(request.policy)))
        with suppress(OSError):  # it has ended, which the listener tells
            self.child.pipe.send(message)

    def _sent(self, policy: Policy) -> Any:
        if id(policy) not in self._pickled:
            if len(self._pickled) >= _POLICIES:
                self._pickled.pop(next(iter(self._pickled)))
            self._pickled[id(policy)] = policy, pickle.dumps(policy)
        return _Sent(self._pickled[id(policy)][1])


class _Sent:
    """A policy on its way: there are few, and each is asked for often."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> Any:
        return _policy, (self._data,)


@functools.lru_cache(_POLICIES)
def _policy(data: bytes) -> Policy:
    """One object for all answers of a policy, as in one process."""
    found: Policy = pickle.loads(data)
    return found
