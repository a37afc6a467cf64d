"""What stands before the application.

Ids, keys, sizes, and the time that a body may take."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .refusals import Refusal

LOG = logging.getLogger("steer.serve")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Doors:
    """Lets requests in to ``app``, or refuses them.

    Args:
        app: the application behind.
        key: that paths under ``/v1/`` want as a bearer token; "" for none.
        most_bytes: of a body.
        body_seconds: in which a body has to have come.
    """

    def __init__(
        self, app: ASGIApp, key: str = "", most_bytes: int = 2**21, body_seconds: float = 30.0
    ) -> None:
        self._app, self._key = app, key.encode()
        self._most_bytes, self._body_seconds = most_bytes, body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        id_ = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = id_
        begun, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = id_
            await send(message)

        try:
            try:
                self._check(scope, headers)
                await self._app(scope, self._bounded(receive), sending)
            except Refusal as refusal:
                if status:
                    raise
                await refusal.response()(scope, receive, sending)
        finally:
            path = scope["path"] if scope["path"].isprintable() else ascii(scope["path"])
            seconds = time.monotonic() - begun
            LOG.info("%s %s %s %d %.3f s", id_, scope["method"], path[:200], status, seconds)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self._key and scope["path"].startswith("/v1/") and scope["method"] != "OPTIONS":
            kind, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._key)
            if kind.lower() != "bearer" or not right:
                raise Refusal(
                    401,
                    "the API key is wrong or missing: send `Authorization: Bearer KEY`",
                    code="invalid_api_key",
                )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._most_bytes:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal(
            413, f"the body is larger than {self._most_bytes:,} bytes", code="body_too_large"
        )

    def _bounded(self, receive: Receive) -> Receive:
        """``receive`` that counts bytes and seconds until the body is whole."""
        left, whole = self._most_bytes, False
        loop = asyncio.get_running_loop()
        end = loop.time() + self._body_seconds

        async def receiving() -> Message:
            nonlocal left, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - loop.time()))
            except asyncio.TimeoutError:
                raise Refusal(
                    408, f"the body did not come within {self._body_seconds:g} seconds"
                ) from None
            left -= len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if left < 0:
                raise self._too_large()
            return message

        return receiving
