"""Errors as OpenAI's clients expect them.

Status, and a body that says what is wrong and in which field.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..errors import ContextFullError, OutOfMemoryError, ServerError, SteerError
from ..util.text import printable
from .engine_core import TimedOut
from .worker import NotServing, QueueFull

LONGEST = 600  # characters of a message: what a client has sent may stand in it


class Refusal(HTTPException):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: one sentence.
        param: the field that it is about.
        code: a word for programs.
        retry_after: seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(status, message)  # which FastAPI hands on as it is
        self.status, self.message = status, message
        self.param, self.code, self.retry_after = param, code, retry_after

    @classmethod
    def of(cls, error: Exception, param: str | None = None) -> Refusal:
        """The refusal that stands for ``error``.

        Errors of ours are the client's fault, others are not.
        """
        if isinstance(error, Refusal):
            return error
        text = str(error)
        if isinstance(error, QueueFull):
            return cls(429, text, code="queue_full", retry_after=1)
        if isinstance(error, NotServing):
            return cls(503, text, code="not_serving", retry_after=5)
        if isinstance(error, TimedOut):
            return cls(504, text, code="timeout")
        if isinstance(error, ContextFullError):
            return cls(400, text, param or "messages", "context_length_exceeded")
        if isinstance(error, OutOfMemoryError):
            return cls(503, text, code="out_of_memory", retry_after=5)
        if isinstance(error, ServerError):
            return cls(503, text, code="model_server", retry_after=5)
        if isinstance(error, SteerError):
            return cls(400, text, param)
        return cls(500, f"the server has failed at this request: {type(error).__name__}")

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        message = printable(self.message)
        if len(message) > LONGEST:
            message = f"{message[:LONGEST]}..."
        error = {"message": message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        # ASCII, as half a character of a client's may stand in a message.
        return Response(
            json.dumps(self.body()), self.status, headers, media_type="application/json"
        )
