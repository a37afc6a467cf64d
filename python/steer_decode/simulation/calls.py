"""How the requests of an answer become calls to engines.

Two unmodified servers are asked once a step, for nobody but the router can judge one. With the
gate in an engine a call goes on for as long as that engine keeps the pen, and ends with a pass
whose token hands over: the gate sees a step's last token when it has the logits of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from ..core.transcript import Writer
from .script import Act, Script

Gate = Literal["none", "small", "both", "loop"]
GATES = ("none", "small", "both")
_COVERED: dict[Gate, tuple[Writer, ...]] = {
    "none": (),
    "small": ("small",),
    "both": ("small", "large"),
    "loop": ("small", "large"),  # the loop of this package, which needs no token to hand over
}


class EngineCall(NamedTuple):
    """What one engine is asked for at once.

    Fields:
        model: that is asked.
        context: tokens of the transcript when it is asked.
        passes: of the model over one token each, the first over what is pending.
        writes, kept, cut: as of :class:`~.script.Act`.
    """

    model: Writer
    context: int
    passes: int
    writes: int
    kept: int
    cut: int | None

    @property
    def held(self) -> int:
        """Tokens whose keys and values are there at its end."""
        return self.context + self.passes - 1


def calls_of(script: Script, gate: Gate) -> tuple[EngineCall, ...]:
    """The calls of one answer.

    Args:
        script: its requests.
        gate: which engines judge steps themselves; "loop" is this package's loop, in process.
    """
    covered = _COVERED[gate]
    groups: list[list[Act]] = []
    for act in script.acts:
        if groups and _goes_on(groups[-1], act, act.model in covered):
            groups[-1].append(act)
        else:
            groups.append([act])
    made = []
    for i, acts in enumerate(groups):
        last = acts[-1]
        gated = gate != "loop" and last.model in covered and last.kind == "write"
        made.append(_call(acts, handing_over=gated and i + 1 < len(groups)))
    return tuple(made)


def _goes_on(before: Sequence[Act], act: Act, covered: bool) -> bool:
    last = before[-1]
    return (
        last.model == act.model
        and act.cut is None
        and last.kind == "write"
        and act.kind != "read"
        and (covered or last.step == act.step)
    )


def _call(acts: Sequence[Act], handing_over: bool) -> EngineCall:
    passes = sum(max(1, act.writes) for act in acts) + handing_over
    first = acts[0]
    return EngineCall(
        first.model,
        first.context,
        passes,
        sum(act.writes for act in acts),
        sum(act.kept for act in acts),
        first.cut,
    )
