"""One family of errors, for bad input and broken models.

Every message says what is wrong, with which value, and the way out.
"""

from __future__ import annotations


class SteerError(ValueError):
    """Bad input or a broken model.

    The message is one sentence fit to be shown to a user.
    """


class BrokenModelError(SteerError):
    """Logits from which no token can be chosen.

    They hold a NaN, or nothing finite.
    """


class OutOfMemoryError(SteerError):
    """Too little memory for the caches or a model."""


class OutputError(SteerError):
    """Standard output or standard error cannot take the text."""


class ContextFullError(SteerError):
    """No room for an answer in the models' context.

    A prompt or a conversation fills it.
    """


class ServerError(SteerError):
    """A model's server failed, or cannot be reached.

    What was written until then stays, and can be gone on with.
    """
