"""A question to a pair, and who answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .prompt import UserPrompt

if TYPE_CHECKING:
    from ..core.saved import SavedAnswer
    from ..decode.router import Router
    from ..decode.stream import RoutedStream
    from ..models.two_models import TwoModels
    from ..policies import Policy
    from .models import Models


@dataclass(frozen=True)
class Asking:
    """One question to one pair, for any policy to answer.

    Attributes:
        pair, models: who is asked.
        question: what.
        sampling: how tokens are chosen.
        broken: an answer to it that is to be gone on with.
        overlap: both models work at the same time.
    """

    pair: TwoModels
    models: Models
    question: UserPrompt
    sampling: dict[str, Any]
    broken: SavedAnswer | None = None
    overlap: bool = False

    def stream(self, policy: Policy) -> RoutedStream:
        """Let ``policy`` answer."""
        return self._router(policy).stream(self.question.asked, **self.sampling)

    def begin(self, policy: Policy) -> RoutedStream:
        """The same, or go on with a broken answer."""
        if self.broken is None:
            return self.stream(policy)
        return self._router(policy).resume(self.broken.output, **self.sampling)

    def _router(self, policy: Policy) -> Router:
        from ..decode.router import Router

        return Router(self.pair, policy, overlap=self.overlap)

    def answer(self, stream: RoutedStream) -> SavedAnswer:
        """What ``stream`` has written so far, finished or not."""
        from ..core.saved import SavedAnswer
        from ..core.shape import active_parameters
        from ..core.transcript import WRITERS
        from ..decode.resumed import GOES_ON

        output = stream.output
        finished = stream.trace.stop_reason not in GOES_ON
        return SavedAnswer(
            prompt=self.question.prompt,
            models=self.models.names(),
            parameters={w: self.pair.shapes[w].parameters for w in WRITERS},
            active=active_parameters(self.pair.shapes),
            output=output,
            correct=self.question.grade(output.text) if finished else None,
            problem=self.question.problem,
            options=self.sampling,
        )
