"""What of an answer can be shown early: what stays.

A step may be taken back when it has closed, and what a reader was sent cannot be. So tokens of a
step that is sure to stay come at once, and those of any other with the verdict on it.
"""

from __future__ import annotations

from ..core.events import Event, StepClosed, TextDelta
from ..core.trace import Trace
from ..errors import SteerError
from ..policies import Policy


class Staying:
    """The tokens of one answer that stay.

    Each comes as early as that is known.

    Args:
        policy: of the answer; it says which open steps are sure to stay.
        trace: of the answer, as it grows.
    """

    def __init__(self, policy: Policy, trace: Trace) -> None:
        self._policy, self._trace = policy, trace
        self._held: list[TextDelta] = []
        self._again: int | None = None  # of the step that is written again, and has to stay

    def show(self, event: Event) -> list[TextDelta]:
        """What may be shown after ``event``.

        Raises:
            SteerError: the policy takes back a step that it was sure of.
        """
        if isinstance(event, TextDelta):
            self._held.append(event)
            if event.index == self._again or self._policy.stays(self._trace.steps[-1]):
                return self._let_go()
        elif isinstance(event, StepClosed):
            step = event.step
            self._again = step.index if step.discarded and step.refused is None else None
            if not step.discarded:
                return self._let_go()
            if len(self._held) < len(step.token_ids):
                raise SteerError(
                    f"policy {self._policy.name!r} took step {step.index} back, of which stays() "
                    "had said that it stays: have it say False of such a step"
                )
            self._held = []
        return []

    def _let_go(self) -> list[TextDelta]:
        held, self._held = self._held, []
        return held
