"""How many replicas there are, given what.

:func:`build` is named in a configuration of Ray Serve (``import_path``), which may change replicas
and resources of each deployment by its name: ``Small``, ``Large`` and ``Steer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ...core.transcript import WRITERS, Writer
from ...errors import SteerError
from ...policies import RouterSpec
from ..choices import checked, nameable

PATH = "steer_decode.serve.on_ray.build:build"
NAMES: Mapping[Writer, str] = {"small": "Small", "large": "Large"}
FRONT = "Steer"
SERVER = (  # settings of the server alone
    *("router", "calibration", "allow", "max_rows", "max_queue"),
    *("max_new_tokens", "temperature", "timeout", "stream_interval"),
)
_AFFINITY = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_LONG = 120.0  # seconds that a replica may be busy without being taken for dead


@dataclass(frozen=True)
class Settings:
    """What is served on Ray, as :func:`build` takes it.

    Attributes:
        small, large: hub id or folder of either model.
        router: who writes.
        replicas: of the small and of the large model.
        fronts: replicas of the server itself.
        resources: of a replica of an engine, as ``ray_actor_options``: num_cpus, num_gpus.
        engine: options of ``vllm.LLM``, for both models.
        small_engine, large_engine: those of one of them, beside these or in their place.
        gate: the gate is inside the engines.
        calibration: a file, for routers that take one.
        allow: routers that a request may name; None for all.
        max_rows, max_queue: answers at a time, and requests that wait, of each front.
        max_new_tokens, temperature, timeout, stream_interval: as of ``steer serve``.

    Raises:
        SteerError: a value out of its range, or a router that cannot be served so.
    """

    small: str
    large: str
    router: str
    replicas: tuple[int, int] = (1, 1)
    fronts: int = 1
    resources: Mapping[str, float] = field(default_factory=lambda: {"num_cpus": 1})
    engine: Mapping[str, Any] = field(default_factory=dict)
    small_engine: Mapping[str, Any] = field(default_factory=dict)
    large_engine: Mapping[str, Any] = field(default_factory=dict)
    gate: bool = True
    calibration: str | None = None
    allow: tuple[str, ...] | None = None
    max_rows: int = 64
    max_queue: int = 256
    max_new_tokens: int = 1024
    temperature: float = 0.0
    timeout: float = 600.0
    stream_interval: float = 20.0

    def __post_init__(self) -> None:
        counts = *self.replicas, self.fronts
        if len(counts) != 3 or any(not isinstance(n, int) or n < 1 for n in counts):
            raise SteerError(
                "replicas must be two whole numbers from 1 on, of the small and of the large "
                f"model, as in 2,1, got {self.replicas!r}"
            )
        checked(RouterSpec.read(self.router), nameable() if self.allow is None else self.allow)

    @classmethod
    def read(cls, args: Mapping[str, Any]) -> Settings:
        """The settings of a configuration's ``args``.

        Raises:
            SteerError: one that is missing or unknown, or a value as above.
        """
        known = [f.name for f in fields(cls)]
        unknown = [name for name in args if name not in known]
        missing = [name for name in ("small", "large", "router") if name not in args]
        if unknown:
            raise SteerError(f"args has {unknown[0]!r}: it takes {', '.join(known)}")
        if missing:
            raise SteerError(f"args has no {missing[0]!r}: add it")
        given = dict(args)
        for name in ("replicas", "allow"):
            if isinstance(given.get(name), list):
                given[name] = tuple(given[name])
        return cls(**given)

    def options(self, writer: Writer) -> dict[str, Any]:
        """Options of ``vllm.LLM`` for one of the models."""
        found = {**self.engine, **(self.small_engine if writer == "small" else self.large_engine)}
        if found.get("tensor_parallel_size", 1) != 1:
            # Else vLLM, which sees Ray, asks it for a placement of its own beside the replica's.
            found.setdefault("distributed_executor_backend", "mp")
        return found

    @property
    def asked(self) -> dict[str, float]:
        """Resources that all replicas together ask for."""
        engines = sum(self.replicas)
        found = {
            "CPU": float(self.resources.get("num_cpus", 1)),
            "GPU": float(self.resources.get("num_gpus", 0)),
        }
        return {name: engines * each for name, each in found.items()}

    def check_room(self, has: Mapping[str, float]) -> None:
        """Refuse a cluster that cannot hold all replicas.

        Raises:
            SteerError: it has too few CPUs or GPUs.
        """
        for name, asked in self.asked.items():
            if asked > has.get(name, 0.0) + 1e-9:
                raise SteerError(
                    f"the Ray cluster has {has.get(name, 0.0):g} {name}s, and {sum(self.replicas)} "
                    f"replicas ask for {asked:g}: give fewer --replicas, or more machines"
                )

    @property
    def args(self) -> dict[str, Any]:
        """Plain values, as a configuration holds them."""
        found = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}

    def document(self, host: str, port: int) -> dict[str, Any]:
        """A configuration that ``serve run`` and ``serve deploy`` take.

        Resources of each deployment stand in it, to be changed there.
        """
        deployments: list[dict[str, Any]] = [
            {
                "name": NAMES[writer],
                "num_replicas": count,
                "max_ongoing_requests": self.max_rows * self.fronts,
                "ray_actor_options": dict(self.resources),
            }
            for writer, count in zip(WRITERS, self.replicas, strict=True)
        ]
        deployments.append({"name": FRONT, "num_replicas": self.fronts})
        return {
            "http_options": {"host": host, "port": port},
            "applications": [
                {
                    "name": "steer",
                    "route_prefix": "/",
                    "import_path": PATH,
                    "args": self.args,
                    "deployments": deployments,
                }
            ],
        }


def build(args: Mapping[str, Any]) -> Any:
    """The application of these settings.

    Raises:
        SteerError: as :meth:`Settings.read`.
    """
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from .engine import EngineReplica
    from .front import Front

    settings = Settings.read(args)
    most = settings.max_rows * settings.fronts
    pools = [
        serve.deployment(
            EngineReplica,
            name=NAMES[writer],
            num_replicas=count,
            max_ongoing_requests=most,
            ray_actor_options=dict(settings.resources),
            request_router_config=RequestRouterConfig(request_router_class=_AFFINITY),
            health_check_timeout_s=_LONG,
            graceful_shutdown_timeout_s=5.0,
        ).bind(writer, getattr(settings, writer), settings.gate, settings.options(writer))
        for writer, count in zip(WRITERS, settings.replicas, strict=True)
    ]
    front = serve.deployment(
        serve.ingress(None)(Front),
        name=FRONT,
        num_replicas=settings.fronts,
        max_ongoing_requests=settings.max_rows + settings.max_queue,
        ray_actor_options={"num_cpus": 0},
        health_check_timeout_s=_LONG,
    )
    # Nothing of the pools: what changes there must not start the server anew, and cut its streams.
    own = {name: value for name, value in settings.args.items() if name in SERVER}
    return front.bind(*pools, own)
