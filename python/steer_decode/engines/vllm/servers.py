"""Calls to a vLLM server, over HTTP.

One thread runs an event loop for both servers of a pair, and every call is a task of it. Tokens are
streamed. A call that meets a fault (no connection, a status of 500 and above, an ``error`` event
within a stream that began with 200, silence) is made again from its first token, after a pause that
grows; what had come comes again and is passed over.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import httpx2 as httpx

from ...errors import ServerError, SteerError
from .calls import Arrived, Call, Order

_AGAIN = {408, 425, 429}  # and all from 500 on
_KEPT = 2.0  # seconds that a connection is kept for another call; a server keeps it for five
_SOON = 30.0  # seconds in which an idle server says what it is
_MOST_RANKS = 2**30  # a server's numbers have 32 bits
_LONGEST = 300  # letters of what a server says of a fault


class Patience(NamedTuple):
    """How long servers are waited for.

    Fields:
        connect: seconds for a connection.
        silence: seconds without a byte, the time in the server's queue included.
        pauses: seconds before each further try.
    """

    connect: float = 10.0
    silence: float = 300.0
    pauses: tuple[float, ...] = (0.5, 2.0, 8.0)

    @property
    def timeout(self) -> httpx.Timeout:
        """For the client."""
        return httpx.Timeout(self.silence, connect=self.connect, pool=None)


class Passing(Exception):
    """What may be gone when the same is asked again."""


class Link:
    """The thread and the connections of a pair's servers.

    Args:
        patience: with both of them.
        key: that is sent to them; empty for none.
    """

    def __init__(self, patience: Patience, key: str = "") -> None:
        self.patience = patience
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.client = httpx.AsyncClient(
            headers=self.headers,
            timeout=self.patience.timeout,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=256, keepalive_expiry=_KEPT
            ),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="steer-vllm", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def begin(self, work: Coroutine[Any, Any, None]) -> Callable[[], object]:
        """Run ``work`` as a task; returns what cancels it.

        Raises:
            ServerError: the pair has been closed.
        """
        if self._loop.is_closed():
            work.close()
            raise ServerError("the connections of this pair have been closed: connect again")
        return asyncio.run_coroutine_threadsafe(work, self._loop).cancel

    def asking(self) -> httpx.Client:
        """A client for questions that are waited for."""
        seconds = min(self.patience.silence, _SOON)
        timeout = self.patience._replace(silence=seconds).timeout
        return httpx.Client(headers=self.headers, timeout=timeout)

    def close(self) -> None:
        """End all calls and the thread."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self.client.aclose()

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class HttpCarrier:
    """Brings calls to one server.

    Args:
        link: the thread that it is spoken to in.
        url: of the server, without ``/v1``.
        model: as the server calls it.
        name: of model and server, for messages.
    """

    def __init__(self, link: Link, url: str, model: str, name: str) -> None:
        self._link, self._url, self._model = link, url, model
        self.name = name

    def send(self, call: Call) -> None:
        call.on_drop = self._link.begin(self._run(call))

    async def _run(self, call: Call) -> None:
        fault: Exception | None = None
        try:
            for pause in (0.0, *self._link.patience.pauses):
                await asyncio.sleep(pause)
                call.again()
                try:
                    await self._once(call)
                    return
                except (Passing, httpx.TransportError) as error:
                    fault = error
            call.fail(self._lost(call, fault))
        except SteerError as error:
            call.fail(error)
        except asyncio.CancelledError:  # given up by its row, or by whoever closes the pair
            call.fail(ServerError(f"the connection to {self.name} has been closed: connect again"))
            raise
        except Exception as error:  # whatever a server sends that nobody has thought of
            call.fail(ServerError(f"{self.name} answered what cannot be read: {error!r}"))

    async def _once(self, call: Call) -> None:
        """One try."""
        cached: int | None = None
        last: Sequence[Arrived] | None = None  # they come with the figures, which come behind them
        async for data in self._events(call):
            if (usage := data.get("usage")) is not None:
                details = usage.get("prompt_tokens_details") or {}
                cached = details.get("cached_tokens")
            for choice in data.get("choices", ()):
                tokens = arrived(choice)
                if choice.get("finish_reason") is None:
                    call.add(tokens)
                elif choice["finish_reason"] not in ("stop", "length"):
                    raise Passing(f"it ended with finish_reason {choice['finish_reason']!r}")
                else:
                    last = tokens
        if last is None:
            raise Passing("the stream broke off")
        call.add(last)
        call.end(cached)

    async def _events(self, call: Call) -> AsyncIterator[Mapping[str, Any]]:
        """The events of a stream; a fault where one of them is an error."""
        order = call.order
        async with self._link.client.stream(
            "POST",
            f"{self._url}/v1/completions",
            json=body_of(order, self._model, call.xargs),
            headers={"X-Session-ID": order.session},
        ) as response:
            if response.status_code != 200:
                await response.aread()
                raise refusal(response.status_code, response.text, self.name)
            async for line in response.aiter_lines():
                word, _, text = line.partition(":")
                if word != "data" or not (text := text.strip()):
                    continue
                if text == "[DONE]":
                    return
                event = json.loads(text)
                if (error := event.get("error")) is not None:
                    raise refusal(error.get("code", 500), text, self.name)
                yield event

    def _lost(self, call: Call, fault: Exception | None) -> ServerError:
        tries = 1 + len(self._link.patience.pauses)
        return ServerError(
            f"{self.name} failed {tries} times at {call.order.place} ({worded(fault)}): see that "
            "it runs, then go on from what was written"
        )


def body_of(order: Order, model: str, xargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The body of a request.

    Every setting is given, so that no default of a server enters.
    """
    sampling = order.sampling
    drawn = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": min(sampling.top_k, _MOST_RANKS),
        "min_p": sampling.min_p,
        "seed": order.seed,
    }
    return {
        "model": model,
        "prompt": list(order.prompt),
        "max_tokens": order.most,
        "stop_token_ids": list(order.stops),
        "ignore_eos": True,  # the ids that end an answer are among those that stop
        "logprobs": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        **(drawn if sampling.temperature else {"temperature": 0.0}),
        **({"vllm_xargs": dict(xargs)} if xargs else {}),
    }


def arrived(choice: Mapping[str, Any]) -> list[Arrived]:
    """The tokens of a choice, each with the largest logit."""
    ids = choice.get("token_ids") or []
    tops = (choice.get("logprobs") or {}).get("top_logprobs") or []
    if len(ids) != len(tops):
        raise Passing(f"{len(ids)} tokens came with the logits of {len(tops)}")
    return [Arrived(int(i), max(top.values())) for i, top in zip(ids, tops, strict=True)]


def refusal(status: Any, text: str, name: str) -> Exception:
    """The error that a status other than 200 means.

    It is one that may pass, or bad input.
    """
    try:
        said = json.loads(text)["error"]
        message = str(said["message"] if isinstance(said, Mapping) else said)
    except (ValueError, KeyError, TypeError):
        message = text
    message = " ".join(message.split())[:_LONGEST]
    code = status if isinstance(status, int) else 500
    if code >= 500 or code in _AGAIN:
        return Passing(f"status {code}: {message}" if message else f"status {code}")
    if code in (401, 403):
        return SteerError(
            f"{name} wants a key: set VLLM_API_KEY to the one that it was started with"
        )
    return SteerError(f"{name} refuses a request (status {code}): {message}")


def worded(fault: Exception | None) -> str:
    """A fault in a few words."""
    if isinstance(fault, httpx.TimeoutException):
        return "it did not answer in time"
    said = " ".join(str(fault).split())[:_LONGEST] or type(fault).__name__
    return said if isinstance(fault, Passing) else f"the connection failed: {said}"
