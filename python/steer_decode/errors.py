"""One family of errors: every message says what is wrong, with which value, and the way out."""

from __future__ import annotations


class SteerError(ValueError):
    """Bad input or a broken model; the message is one sentence fit to be shown to a user."""


class BrokenModelError(SteerError):
    """A model returned logits from which no token can be chosen (NaN, or nothing finite)."""


class OutOfMemoryError(SteerError):
    """The caches do not fit, or a model ran out of memory."""


class OutputError(SteerError):
    """Standard output or standard error cannot take what is to be shown."""


class ContextFullError(SteerError):
    """A prompt, or a conversation, that leaves no room for an answer in the models' context."""
