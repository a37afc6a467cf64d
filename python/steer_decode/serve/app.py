"""The application: what clients speak to."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from ..errors import SteerError
from .bodies import Bodies, usage_of
from .choices import MODELS, Choices
from .doors import Doors
from .intake import Intake
from .refusals import Refusal
from .requests import ChatRequest, Door, TextRequest
from .spans import Spans
from .streaming import Gone, Stream, whole
from .tickets import Ended, Ticket
from .worker import Worker

LOG = logging.getLogger("steer.serve")
PAGE = Path(__file__).with_name("page.html")


class Server:
    """What a running server is made of.

    Args:
        worker: that answers.
        choices: the routers.
        intake: that makes tickets of requests.
        spans: where requests are traced, if anywhere.
        log_prompts: write prompts to the log.
        demo: the pair is the one that is shipped.

    Attributes:
        draining: no new request is taken, and open ones end.
    """

    def __init__(
        self,
        worker: Worker,
        choices: Choices,
        intake: Intake,
        spans: Spans | None = None,
        log_prompts: bool = False,
        demo: bool = False,
    ) -> None:
        self.worker, self.choices, self.intake = worker, choices, intake
        self.spans, self._log_prompts = spans, log_prompts
        self.demo, self.draining = demo, False

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self.draining and self.worker.failed is None

    async def answer(
        self, door: Door, asked: ChatRequest | TextRequest, request: Request
    ) -> Response:
        """Answer a request to one of the two doors."""
        if self.draining:
            raise Refusal(
                503, "the server is about to end: ask another one", None, "not_serving", 5
            )
        tickets = await self.intake.tickets(asked)
        id_ = request.state.request_id
        if self._log_prompts:
            LOG.info("%s prompt %r", id_, asked.model_dump(include={"messages", "prompt"}))
        bodies = Bodies(door, asked.model, self.worker.pair)
        prompts = len(tickets) // (asked.n or 1)
        try:
            self.worker.submit(*tickets)
        except SteerError as error:
            self.worker.metrics.ended("refused")
            raise Refusal.of(error) from error

        def ended(answers: Sequence[tuple[Ticket, Ended]]) -> None:
            if self.spans is not None:
                self.spans.tell(id_, answers)

        if asked.stream:
            return Stream(self.worker, tickets, bodies, asked, prompts, ended)
        try:
            found = await whole(self.worker, tickets, request)
        except Gone:
            return Response(status_code=499)  # nobody reads it
        answers = [(ticket, end) for ticket, (_, _, end) in zip(tickets, found, strict=True)]
        ended(answers)
        trace = asked.steer is not None and asked.steer.trace
        return JSONResponse(bodies.whole(found, usage_of(answers, prompts, trace)))


def application(
    server: Server,
    key: str = "",
    origins: Sequence[str] = (),
    most_bytes: int = 2**21,
    body_seconds: float = 30.0,
) -> Any:
    """The ASGI application of ``server``.

    Args:
        server: what it serves.
        key, most_bytes, body_seconds: of :class:`Doors`.
        origins: of pages that may ask from a browser; none by default.
    """

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        server.worker.start()
        yield
        server.worker.stop()

    app = FastAPI(
        title="steer serve",
        version=_version(),
        lifespan=running,
        docs_url=None,  # its page would be fetched from elsewhere
        redoc_url=None,
    )
    _answering(app, server)
    _telling(app, server)
    _refusing(app)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "OPTIONS"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return Doors(app, key, most_bytes, body_seconds)


def _answering(app: FastAPI, server: Server) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        return await server.answer("chat", asked, request)

    @app.post("/v1/completions", response_model=None)
    async def completions(asked: TextRequest, request: Request) -> Response:
        return await server.answer("text", asked, request)


def _telling(app: FastAPI, server: Server) -> None:
    pair = server.worker.pair

    def model(name: str) -> dict[str, Any]:
        told = {"id": name, "object": "model", "created": 0, "owned_by": "steer-kernels"}
        return {**told, "max_model_len": pair.max_length}

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [model(name) for name in reversed(MODELS)]}

    @app.get("/v1/models/{name}")
    async def one(name: str) -> Any:
        server.choices.policy(name, None)
        return model(name)

    @app.get("/health")
    async def health() -> Response:
        failed = server.worker.failed
        if failed is not None:
            raise Refusal(503, f"the engine has failed: {failed}", code="failed")
        return Response(status_code=200)

    @app.get("/ready")
    async def ready() -> Response:
        if not server.ready:
            raise Refusal(503, "no new requests are taken", code="not_serving", retry_after=5)
        return Response(status_code=200)

    @app.get("/metrics")
    async def metrics() -> Response:
        text = server.worker.metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/version")
    async def about() -> Any:
        policy = server.choices.default.label
        told = {"version": _version(), "router": policy, "demo": server.demo}
        return {**told, "routers": list(server.choices.allowed)}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        policy = (
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        return Response(PAGE.read_bytes(), media_type="text/html", headers=headers)


def _refusing(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _invalid(error).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        said = f"{request.method} {request.url.path}: {error.detail}"
        return Refusal(error.status_code, said).response()

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        LOG.exception("a request has failed")
        return Refusal.of(error).response()


def _invalid(error: RequestValidationError) -> Refusal:
    """The first fault of a body, in a sentence that names the field."""
    first: Any = error.errors()[0]
    place = [part for part in first["loc"][1:] if isinstance(part, int | str)]
    if first["type"] == "json_invalid":
        return Refusal(400, f"the body is no JSON: {first.get('ctx', {}).get('error', '')}")
    name = ""
    for part in place:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part in _TAGS or not part.replace("_", "").isalnum():
            continue  # the branch of a union, no field
        else:
            name += f".{part}" if name else part
    return Refusal(400, f"{name or 'the body'}: {first['msg']}", name or None)


_TAGS = {"str", "int", "float", "bool"}


def _version() -> str:
    try:
        return version("steer-kernels")
    except PackageNotFoundError:
        return "0"


__all__ = ["Server", "application"]
