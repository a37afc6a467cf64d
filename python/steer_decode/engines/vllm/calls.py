"""A request to a model elsewhere, and its tokens.

The engine makes a call and takes its tokens, in the thread of the loop. A carrier brings it to the
model and adds what comes, in whatever thread. Tokens are only ever appended, so no lock is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ...core.sampling import Sampling
from .gate_args import ID


class Order(NamedTuple):
    """What is asked of a model.

    Fields:
        prompt: ids of all that stands before.
        most: most tokens that are wanted.
        stops: ids of which each ends what is wanted, and belongs to it.
        sampling: how tokens are drawn.
        seed: of this call alone: the same one gives the same tokens.
        session: of the conversation, the same for all of its calls.
        place: where the first token stands, for messages.
        xargs: what a logits processor of ours in the server is told.
    """

    prompt: Sequence[int]
    most: int
    stops: Sequence[int]
    sampling: Sampling
    seed: int
    session: str
    place: str
    xargs: Mapping[str, Any] = {}


class Arrived(NamedTuple):
    """A token, with the largest raw logit at its place."""

    token: int
    max_logit: float


@dataclass(eq=False)
class Call:
    """One request on its way.

    Attributes:
        order: what is asked.
        told: is called when anything has come.
        tokens: that have come.
        given: how many of them the engine has handed up.
        ended: the model has come to the end of what it was asked for.
        cached: tokens of the prompt that the model had in its cache; None where it does not say.
        error: why nothing more comes, if it is a fault.
        stale: what was handed up did not come again; whoever wants more asks anew.
        attempt: how often it has been made.
        on_drop: how the carrier gives it up.
    """

    order: Order
    told: Callable[[], None]
    tokens: list[Arrived] = field(default_factory=list)
    given: int = 0
    ended: bool = False
    cached: int | None = None
    error: Exception | None = None
    stale: bool = False
    on_drop: Callable[[], object] | None = None
    attempt: int = 0
    _seen: int = 0  # tokens of this attempt

    def add(self, tokens: Sequence[Arrived]) -> None:
        """Take tokens in.

        Those that came before a fault come a second time.
        """
        for arrived in tokens:
            at, self._seen = self._seen, self._seen + 1
            if at < len(self.tokens):
                if self.tokens[at].token == arrived.token or self.stale:
                    continue
                if at < self.given:
                    self.stale = True
                    continue
                del self.tokens[at:]
            if not self.stale:
                self.tokens.append(arrived)
        self.told()

    def end(self, cached: int | None) -> None:
        """The model has written all of it."""
        if self.cached is None:  # of the first attempt, as what is read again is not the row's cost
            self.cached = cached
        self.ended = True
        self.told()

    def fail(self, error: Exception) -> None:
        """Nothing more comes."""
        self.error = error
        self.told()

    def again(self) -> None:
        """The same is asked, once more perhaps."""
        self._seen = 0
        self.attempt += 1

    @property
    def xargs(self) -> dict[str, Any]:
        """What a logits processor is told with this attempt.

        The one before may still run in the server, so its id is another.
        """
        found = dict(self.order.xargs)
        if ID in found:
            found[ID] = f"{found[ID]}-{self.attempt}"
        return found

    def drop(self) -> None:
        """Give it up: nobody waits for the rest."""
        if not self.ended and self.error is None and self.on_drop is not None:
            self.on_drop()
        self.on_drop = None


class Carrier(Protocol):
    """What brings calls to one model.

    Attributes:
        name: of the model, and where it is, for messages.
    """

    @property
    def name(self) -> str: ...

    def send(self, call: Call) -> None:
        """Begin ``call``, whose ``on_drop`` it sets; returns at once."""


class Arrivals:
    """Tells whoever waits that something has come, for any call.

    Args:
        pump: what has to be done for something to come, where nobody else does it: each call of it
            brings every call in this process one token further.
    """

    def __init__(self, pump: Callable[[], None] | None = None) -> None:
        self._event = threading.Event()
        self._pump = pump

    def told(self) -> None:
        """Something has come."""
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Return once something has come since the last time.

        Or after so many seconds.
        """
        if self._pump is not None:
            self._pump()
        elif self._event.wait(seconds):
            self._event.clear()
