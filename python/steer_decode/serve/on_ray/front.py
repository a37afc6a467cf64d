"""The server before the pools.

It is what ``steer serve`` runs, over handles of Ray Serve.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from ...core.transcript import WRITERS, Writer
from ...decode.elsewhere import check_served
from ...decode.router import Router
from ...engines.vllm.calls import Arrivals
from ...models.loading import load_tokenizer
from ...models.vllm_pair import VllmPair
from ...models.vllm_side import VllmSide, described
from ...policies import RouterSpec
from ..app import Server, application
from ..choices import Choices, checked, nameable
from ..intake import Intake
from ..worker import ThreadWorker
from .carrier import RayCarrier, RayLink

KEY = "STEER_API_KEY"


class Front:
    """What Ray Serve runs one of, or several.

    Args:
        small, large: handles of the pools.
        settings: the server's own; see :class:`~steer_decode.serve.on_ray.build.Settings`.
    """

    async def __init__(  # type: ignore[misc]  # Ray waits for it
        self, small: Any, large: Any, settings: Mapping[str, Any]
    ) -> None:
        link = RayLink(asyncio.get_running_loop())
        sides: dict[Writer, VllmSide] = {}
        tokenizers = []
        for writer, handle in zip(WRITERS, (small, large), strict=True):
            info = await handle.info.remote()
            model = str(info["model"])
            name = f"the {writer} model {model!r}"
            tokenizers.append(load_tokenizer(writer, model, {}))
            sides[writer] = described(
                name,
                model,
                writer,
                model,
                tokenizers[-1],
                RayCarrier(link, handle, name),
                int(info["context"]),
                bool(info["gated"]),
                {},
            )
        pair = VllmPair(sides, tokenizers[0], tokenizers[1], Arrivals())
        self._app = application(_server(pair, settings), os.environ.get(KEY, ""))

    def __serve_build_asgi_app__(self) -> Any:
        return self._app


def _server(pair: VllmPair, settings: Mapping[str, Any]) -> Server:
    spec = RouterSpec.read(settings["router"])
    calibration = settings["calibration"]

    def files(of: RouterSpec) -> dict[str, str]:
        own = calibration and of.policy.takes_calibration and "threshold" not in of.settings
        return {"calibration": calibration} if own else {}

    allow = settings["allow"]
    allowed = nameable() if allow is None else list(allow)
    checked(spec, allowed)
    check_served(spec.make(**files(spec)), pair.gated)
    choices = Choices(pair, spec, files, allowed)
    rows, queue = settings["max_rows"], settings["max_queue"]
    router, interval = Router(pair, choices.default), settings["stream_interval"] / 1000
    worker = ThreadWorker(router, rows, queue, interval=interval)
    intake = Intake(
        pair, choices, settings["max_new_tokens"], settings["temperature"], settings["timeout"]
    )
    return Server(worker, choices, intake)
