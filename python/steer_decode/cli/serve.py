"""``steer serve``: the pair behind the interface of OpenAI."""

from __future__ import annotations

import ipaddress
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SteerError
from ..serve.child import Child, EngineOptions
from ..util.interruption import deafen
from . import options as opt
from . import say
from .log import log_to_stderr
from .models import Models
from .routers import files_of
from .serve_ray import serve_on_ray
from .serving import KEY, Loading, address_of, check_extra, read_key

if TYPE_CHECKING:
    from ..policies import RouterSpec
    from ..serve.app import Server

_SERVER, _LIMITS, _RAY = "Server", "Limits", "Ray"


def serve(
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    small_url: opt.SmallUrlOption = None,
    large_url: opt.LargeUrlOption = None,
    tokenizer: opt.TokenizerOption = None,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    threads: opt.ThreadsOption = None,
    overlap: opt.OverlapOption = False,
    router: Annotated[
        str | None,
        typer.Option(
            "--router",
            help="Who writes: `NAME[:KEY=VALUE...]`; by default both-sides for the demo pair, else "
            "speculative:k=auto, whose answers are the large model's.",
        ),
    ] = None,
    calibration: opt.CalibrationOption = None,
    allow: Annotated[
        str | None,
        typer.Option(
            "--allow", help="Routers that a request may name, `A,B`; all by default; or `none`."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on.", rich_help_panel=_SERVER)
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, help="0 is any.", rich_help_panel=_SERVER),
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            help=f"The key that clients send is in this file, or in the environment as {KEY}.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin", help="A page's origin that may ask; again.", rich_help_panel=_SERVER
        ),
    ] = None,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Log prompts too.", rich_help_panel=_SERVER)
    ] = False,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            "--otlp-endpoint", help="Send spans to this collector.", rich_help_panel=_SERVER
        ),
    ] = None,
    max_rows: Annotated[
        int,
        typer.Option("--max-rows", min=1, help="Answers at a time.", rich_help_panel=_LIMITS),
    ] = 16,
    max_queue: Annotated[
        int,
        typer.Option("--max-queue", min=0, help="Requests that may wait.", rich_help_panel=_LIMITS),
    ] = 256,
    max_new_tokens: opt.MaxNewTokensOption = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Where a request sets none; 0 is greedy.")
    ] = 0.0,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=1, help="Seconds of a request.", rich_help_panel=_LIMITS),
    ] = 600.0,
    max_body: Annotated[
        int,
        typer.Option("--max-body", min=1024, help="Bytes of a body.", rich_help_panel=_LIMITS),
    ] = 2**21,
    keep: Annotated[
        float,
        typer.Option(
            "--keep",
            min=0,
            help="MiB of keys and values of ended answers, for conversations that go on.",
            rich_help_panel=_LIMITS,
        ),
    ] = 512.0,
    stream_interval: Annotated[
        float,
        typer.Option(
            "--stream-interval",
            min=0,
            max=1000,
            help="Milliseconds at least between chunks of a stream, but for its first and last.",
            rich_help_panel=_LIMITS,
        ),
    ] = 20.0,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="From pools of engines in a Ray cluster.", rich_help_panel=_RAY),
    ] = False,
    replicas: Annotated[
        str,
        typer.Option(
            "--replicas", help="Engines of the small and large model.", rich_help_panel=_RAY
        ),
    ] = "1,1",
    ray_yaml: Annotated[
        Path | None,
        typer.Option(
            "--ray-yaml",
            help="Write a configuration for Ray's own command there, and end.",
            rich_help_panel=_RAY,
        ),
    ] = None,
    shutdown_timeout: Annotated[
        float,
        typer.Option(
            "--shutdown-timeout",
            min=0,
            help="Seconds that open answers have after SIGTERM.",
            rich_help_panel=_LIMITS,
        ),
    ] = 30.0,
) -> None:
    """Serve the pair to clients of OpenAI's interface.

    There is a page at /.

    A request's `model` is small, large or steer. Needs `pip install steer-kernels[serve]`.

    Examples:

    - `steer serve`

    - `steer serve --small Qwen/Qwen3-0.6B --large Qwen/Qwen3-8B --router first-token --port 8080`

    - `steer serve --api-key-file key --host 0.0.0.0 --allow none`

    - `steer serve --small-url URL --large-url URL --router steer:threshold=24` (two vLLM servers)

    - `steer serve --ray --small ID --large ID --replicas 4,2 --router first-token`
    """
    models = Models(
        pair, small, large, dtype and dtype.value, device, threads, small_url, large_url, tokenizer
    )
    if ray or ray_yaml is not None:
        limits = {
            "max_rows": max_rows,
            "max_queue": max_queue,
            "max_new_tokens": models.max_new_tokens(max_new_tokens),
            "temperature": temperature,
            "timeout": timeout,
            "stream_interval": stream_interval,
        }
        allowed = None if allow is None else [] if allow == "none" else opt.names(allow)
        address = host, port
        serve_on_ray(models, router, replicas, address, limits, allowed, calibration, ray_yaml)
        return
    check_extra()
    key = read_key(api_key_file)
    router = router or _default(models)
    interval = stream_interval / 1000
    options = EngineOptions(max_rows, int(keep * 2**20), interval, overlap)
    child = None if models.remote else Child(Loading(models), options)
    spec, files = _router(router, models, calibration)
    log_to_stderr()
    from ..serve.app import application
    from ..serve.run import listen, run

    bound = listen(host, port)
    limits = {
        "max_rows": max_rows,
        "max_queue": max_queue,
        "max_new_tokens": models.max_new_tokens(max_new_tokens),
        "temperature": temperature,
        "timeout": timeout,
        "interval": interval,
        "overlap": overlap,
    }
    server = _server(models, child, spec, files, allow, limits, otlp_endpoint, log_prompts)
    app = application(server, key, cors_origin or (), max_body)
    at = address_of(*bound.getsockname()[:2])
    asked = "a key is asked for" if key else "no key is asked for"

    def said() -> None:
        say.note(f"serving {server.choices.default.label} at {at} (page at /, {asked})")
        if not key and not ipaddress.ip_address(bound.getsockname()[0]).is_loopback:
            say.note("anyone who reaches this address can ask: set --api-key-file")

    deafen()  # the server answers signals itself
    ended = run(app, server, bound, shutdown_timeout, said)
    server.worker.pair.close()
    if server.spans is not None:
        server.spans.close()
    say.note("ended")
    if server.worker.failed is not None:
        raise typer.Exit(1)
    if ended == signal.SIGINT:
        raise typer.Exit(130)


def _server(
    models: Models,
    child: Child | None,
    spec: RouterSpec,
    files: Any,
    allow: str | None,
    limits: Mapping[str, Any],
    otlp_endpoint: str | None,
    log_prompts: bool,
) -> Server:
    from ..decode.elsewhere import check_served
    from ..decode.router import Router
    from ..serve.app import Server
    from ..serve.choices import Choices, checked, nameable
    from ..serve.engine_process import ProcessWorker, check_sent
    from ..serve.intake import Intake
    from ..serve.spans import Spans
    from ..serve.worker import ThreadWorker, Worker

    spans = Spans(otlp_endpoint) if otlp_endpoint else None
    allowed = nameable() if allow is None else [] if allow == "none" else opt.names(allow) or []
    checked(spec, allowed)
    policy = spec.make(**files(spec))
    worker: Worker
    if child is None:  # both models are servers', and to call them takes no time of this process
        check_served(policy)
        router = Router(models.open(), policy, overlap=limits["overlap"])
        worker = ThreadWorker(
            router, limits["max_rows"], limits["max_queue"], interval=limits["interval"]
        )
    else:
        check_sent(policy)
        worker = ProcessWorker(child, limits["max_queue"])
    choices = Choices(worker.pair, spec, files, allowed)
    intake = Intake(
        worker.pair, choices, limits["max_new_tokens"], limits["temperature"], limits["timeout"]
    )
    return Server(worker, choices, intake, spans, log_prompts, models.demo)


def _default(models: Models) -> str:
    """The router of a pair that names none.

    Raises:
        SteerError: two servers have none.
    """
    if models.remote:
        raise SteerError(
            "--router has no default with two servers: give one that they serve, as in "
            "--router steer:threshold=24"
        )
    return "both-sides" if models.demo else "speculative:k=auto"


def _router(router: str, models: Models, calibration: Path | None) -> tuple[RouterSpec, Any]:
    """The operator's router, and what finds the files of any."""
    from ..policies import RouterSpec

    spec = RouterSpec.read(router)

    def files(of: RouterSpec) -> dict[str, str]:
        own = calibration is not None and of.policy.takes_calibration
        if own and "threshold" not in of.settings:
            return {"calibration": str(calibration)}
        return files_of(of, models)

    return spec, files
