"""Settings of a router as text, by its annotations.

What each takes is read from those of ``__init__``.
"""

from __future__ import annotations

import builtins
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from ..core.signals import SIGNALS, Signal
from ..errors import SteerError
from .base import Policy

SWITCHES = {"true": True, "false": False}
_NONE = type(None)


@dataclass(frozen=True)
class _Kind:
    """One type that a setting may have; ``read`` raises ValueError where a text is none of it."""

    takes: str
    read: Callable[[str], Any]


def _one_of(words: dict[str, Any], takes: str = "") -> _Kind:
    def read(text: str) -> Any:
        if text not in words:
            raise ValueError
        return words[text]

    return _Kind(takes or f"one of {', '.join(words)}", read)


# A union tries them in this order: the text "0.5" is a number where a number may stand.
_KINDS: dict[Any, Callable[[], _Kind]] = {
    _NONE: lambda: _one_of({"none": None}, "none"),
    bool: lambda: _one_of(SWITCHES, "true or false"),
    int: lambda: _Kind("a whole number", int),
    float: lambda: _Kind("a number", float),
    str: lambda: _Kind("a text", str),
    Signal: lambda: _one_of(SIGNALS),
    Path: lambda: _Kind("a path", Path),
}
_TEXTS = (str, Path)  # which any text is


@dataclass(frozen=True)
class Setting:
    """One setting of a router.

    Attributes:
        router: as it was asked for.
        name: of the parameter.
        kinds: what it takes, in the order in which they are tried; none where no text can say it.
        needed: it has no default.
        free: any text is taken, one with a colon as well.
    """

    router: str
    name: str
    kinds: Sequence[_Kind]
    needed: bool
    free: bool

    def read(self, text: str) -> Any:
        """The value that ``text`` says.

        Raises:
            SteerError: it says none that this setting takes.
        """
        if not self.kinds:
            raise SteerError(
                f"{self.name} of router {self.router!r} cannot be set by a text, got {text!r}: "
                "make the router in Python, or annotate the parameter as float, int, bool, str, "
                "Path, Signal or Literal"
            )
        for kind in self.kinds:
            with suppress(ValueError):
                return kind.read(text)
        takes = " or ".join(kind.takes for kind in self.kinds if kind.takes != "none")
        raise SteerError(f"{self.name} of router {self.router!r} must be {takes}, got {text!r}")


def settings_of(policy: type[Policy], router: str) -> dict[str, Setting]:
    """What a text may set of a router, by name.

    An annotation is float, int, bool, str, :class:`~pathlib.Path`, :class:`Signal`, a Literal, or a
    union of these; what else stands in a union is for callers in Python. A parameter without an
    annotation has the type of its default; where that says nothing, its text is the first of these
    that it can be: a switch, a number, a text.
    """
    found = {}
    for name, parameter in inspect.signature(policy).parameters.items():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            types_ = list(_parts(_annotation(policy, parameter)))
            found[name] = Setting(
                router,
                name,
                _kinds(types_),
                needed=parameter.default is parameter.empty,
                free=any(kind in types_ for kind in _TEXTS),
            )
    return found


def _annotation(policy: type[Policy], parameter: inspect.Parameter) -> Any:
    if parameter.annotation is not parameter.empty:
        made = inspect.unwrap(policy.__init__)
        known = {**vars(builtins), **getattr(made, "__globals__", {})}
        holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
        with suppress(NameError, AttributeError, TypeError, SyntaxError):
            return typing.get_type_hints(holder, known, _Names(known))[parameter.name]
        return _Unknown
    usual = type(parameter.default)
    return usual if usual in _KINDS and usual is not _NONE else Any


class _UnknownType(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Unknown(metaclass=_UnknownType):
    """A type that is imported for type checkers only, and whatever stands within it."""

    def __class_getitem__(cls, item: object) -> Any:
        return cls


class _Names(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return _Unknown


def _parts(annotation: Any) -> Iterator[Any]:
    """The types of a union, aliases opened."""
    while (
        meant := getattr(annotation, "__value__", getattr(annotation, "__supertype__", None))
    ) is not None:
        annotation = meant
    if annotation is Any:
        yield from (bool, int, float, str)
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def _kinds(types_: Sequence[Any]) -> list[_Kind]:
    kinds = [make() for kind, make in _KINDS.items() if kind in types_]
    values = [v for kind in types_ if get_origin(kind) is Literal for v in get_args(kind)]
    words = {str(v).lower() if v is None or v is True or v is False else str(v): v for v in values}
    if words:
        kinds.insert(0, _one_of(words))
    if len(kinds) == 1 and kinds[0].takes == "none":
        return []
    # Where a text is taken, "none" is one.
    return [k for k in kinds if k.takes != "none" or not any(t in types_ for t in _TEXTS)]
