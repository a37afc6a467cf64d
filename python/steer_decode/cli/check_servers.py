"""``steer check`` over two servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import say
from .models import Models

if TYPE_CHECKING:
    from ..models.vllm_pair import VllmPair

_GATED = "inside: routers that look before a step are served, and calls are fewer"
_WAY = "none: first-token is refused; start the server with what `steer vllm-args` prints"


def check_servers(models: Models, as_json: bool) -> None:
    """Say what two servers of vLLM can do.

    Raises:
        SteerError: a server that is down or cannot serve.
    """
    pair: Any = models.open()
    try:
        found = _found(pair)
    finally:
        pair.close()
    if as_json:
        from ..util.text import dump

        say.out(dump({"fits": True, "servers": found}, indent=1))
        return
    for writer, facts in found.items():
        say.out(f"{writer} model {facts['model']}")
        say.out(f"  parameters  {facts['parameters']:,}")
        say.out(f"  context     {facts['context']:,} tokens")
        say.out("  logits      raw")
        say.out(f"  gate        {_GATED if facts['gate'] else _WAY}")
    say.out("the two servers fit")


def _found(pair: VllmPair) -> dict[str, dict[str, Any]]:
    return {
        writer: {
            "model": side.model,
            "parameters": side.shape.parameters,
            "context": side.context,
            "gate": side.handoff is not None,
            "handoff": side.handoff,
        }
        for writer, side in pair.sides.items()
    }
