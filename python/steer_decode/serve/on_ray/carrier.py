"""Brings calls to a pool of engines on Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from ...engines.vllm.calls import Arrived, Call
from ...engines.vllm.servers import HttpCarrier, Passing, Patience
from ...errors import ServerError, SteerError
from .engine import END, TOKENS


class RayLink(NamedTuple):
    """Where calls run, and how often they are made again.

    Fields:
        loop: the replica's event loop.
        patience: of which the pauses count; a pool without a replica lets a call wait.
    """

    loop: asyncio.AbstractEventLoop
    patience: Patience = Patience()

    def begin(self, work: Coroutine[Any, Any, None]) -> Callable[[], object]:
        """Run ``work`` as a task; returns what cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).cancel


class RayCarrier(HttpCarrier):
    """As :class:`HttpCarrier`, to whichever replica has the conversation.

    Args:
        link: where calls run.
        handle: of the deployment.
        name: of the model, for messages.
    """

    def __init__(self, link: RayLink, handle: Any, name: str) -> None:
        self._link = link  # type: ignore[assignment]
        self._handle, self.name = handle, name

    async def _once(self, call: Call) -> None:
        order = call.order._replace(xargs=call.xargs)
        stream = self._handle.options(stream=True, session_id=order.session).generate.remote(order)
        ended = False
        try:
            async for kind, value in stream:
                if kind == TOKENS:
                    call.add([Arrived(*each) for each in value])
                elif kind == END:
                    ended = True
                    call.end(value)
        except RayTaskError as error:
            raise _worded(error.cause) from error
        except (RayError, RayServeException) as error:  # the replica is gone, or not there yet
            raise Passing(type(error).__name__) from error
        finally:
            if not ended:
                stream.cancel()
        if not ended:
            raise Passing("the stream broke off")


def _worded(cause: BaseException) -> Exception:
    """What a replica raised: bad input, or what may pass."""
    if isinstance(cause, SteerError) and not isinstance(cause, ServerError):
        return cause
    return Passing(str(cause) or type(cause).__name__)
