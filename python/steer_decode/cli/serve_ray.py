"""``steer serve --ray``: pools of replicas in a Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import SteerError
from ..util.files import check_writable, write_whole
from . import say
from .models import Models

if TYPE_CHECKING:
    from ..serve.on_ray.build import Settings

ADDRESS = "RAY_ADDRESS"
_OURS = {  # unless the environment says otherwise
    "RAY_USAGE_STATS_ENABLED": "0",
    # A machine that starts engines is busy, and Ray takes a proxy that is slow to begin for dead.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
}


def replicas_of(text: str) -> tuple[int, int]:
    """The two numbers of ``--replicas``.

    Raises:
        SteerError: it holds something else.
    """
    parts = text.split(",")
    if len(parts) != 2 or not all(p.strip().isdecimal() and int(p) for p in parts):
        raise SteerError(
            "--replicas must be two numbers from 1 on, of the small and of the large model, as in "
            f"2,1, got {text!r}"
        )
    return int(parts[0]), int(parts[1])


def serve_on_ray(
    models: Models,
    router: str | None,
    replicas: str,
    address: tuple[str, int],
    limits: Mapping[str, Any],
    allow: Sequence[str] | None = None,
    calibration: Path | None = None,
    file: Path | None = None,
) -> None:
    """Serve a pair from pools, until a signal ends it.

    Args:
        models: hub ids or folders that every machine of the cluster finds.
        router: who writes.
        replicas: of the small and of the large model, as ``2,1``.
        address: host and port to listen on.
        limits: settings of ``Settings`` that have a value.
        allow, calibration: as of ``steer serve``.
        file: write a configuration for Ray's own command there, and serve nothing.

    Raises:
        SteerError: bad input, no Ray here, or a cluster without room.
    """
    _check_extra()
    _check_models(models)
    from ..serve.on_ray.build import Settings

    found = models.sources()[:2]
    small, large = (os.path.abspath(each) if os.path.isdir(each) else each for each in found)
    settings = Settings(
        small,
        large,
        _router(router),
        replicas_of(replicas),
        resources=_resources(),
        engine=_engine(models),
        calibration=str(calibration.resolve()) if calibration else None,
        allow=None if allow is None else tuple(allow),
        **limits,
    )
    if file is None:
        _serve(settings, *address)
        return
    import yaml

    check_writable(file)
    write_whole(file, yaml.safe_dump(settings.document(*address), sort_keys=False))
    say.note(f"replicas and resources stand in {file}; `serve run {file}` starts it")


def _serve(settings: Settings, host: str, port: int) -> None:
    for name, value in _OURS.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import serve

    from ..serve.on_ray.build import build

    try:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SteerError(
            f"the Ray cluster at {os.environ.get(ADDRESS, 'this machine')!r} cannot be reached "
            f"({str(error).splitlines()[0]}): start it, or mend {ADDRESS}"
        ) from error
    try:
        settings.check_room(ray.cluster_resources())
        serve.start(http_options={"host": host, "port": port})
        serve.run(build(settings.args), name="steer", route_prefix="/")
        say.note(
            f"serving {settings.router} at http://{host}:{port}, "
            f"replicas {settings.replicas[0]} and {settings.replicas[1]}"
        )
        ended = _signal()
        serve.shutdown()
    finally:
        ray.shutdown()
    say.note("ended")
    if ended == signal.SIGINT:
        raise typer.Exit(130)


def _signal() -> int:
    """Wait for SIGTERM or Ctrl-C."""
    came, over = [int(signal.SIGTERM)], threading.Event()

    def take(number: int, frame: Any) -> None:
        came[0] = number
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, take)
    over.wait()
    return came[0]


def _router(router: str | None) -> str:
    if router is None:
        raise SteerError(
            "--router has no default with --ray: give one that servers serve, as in "
            "--router steer:threshold=24"
        )
    from ..decode.elsewhere import check_served
    from ..policies import RouterSpec

    spec = RouterSpec.read(router)
    if not spec.policy.takes_calibration or "threshold" in spec.settings:
        check_served(spec.make())
    return router


def _check_models(models: Models) -> None:
    if models.remote:
        raise SteerError(
            "--ray starts engines of its own, and --small-url and --large-url name servers: give "
            "--small and --large"
        )
    for name, value in (("--device", models.device), ("--threads", models.threads)):
        if value is not None:
            raise SteerError(f"{name} is for models that are loaded here: leave it out with --ray")


def _engine(models: Models) -> dict[str, Any]:
    from ..engines.vllm.flags import Installed

    options: dict[str, Any] = {} if models.dtype is None else {"dtype": models.dtype}
    if Installed.find().cpu:
        options["block_size"] = 32
    return options


def _resources() -> dict[str, float]:
    """What a replica takes: a card where vLLM runs on cards."""
    from ..engines.vllm.flags import Installed

    return {"num_cpus": 1} if Installed.find().cpu else {"num_cpus": 1, "num_gpus": 1}


def _check_extra() -> None:
    try:
        import httpx2  # noqa: F401
        import prometheus_client  # noqa: F401
        from ray import serve  # noqa: F401
    except ImportError as error:
        raise SteerError(
            f"steer serve --ray needs {error.name}: pip install 'steer-kernels[ray]'"
        ) from error
