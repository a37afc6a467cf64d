"""Files of ours with something wrong in them: what a disk, a bug or somebody else may leave."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

HUGE = 10**400
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 7, 2**53 + 1, HUGE, -HUGE, 0.5, -0.5, 1e308, -1e308, 1e-320),
    *("", "x", "small", "large", "eos", "math", "1", "nan", "\ud800", "\x1b]0;t\x07", "a" * 5000),
    *([], [[]], [None], [1], ["x"], {}, {"x": 1}, {"": None}, {"small": 1}),
]
# What JSON has no value for: each stands in the text of the file where this marker was.
_MARK = "@@@"
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "[" * 3000 + "]" * 3000, "9" * 5000, "01", "x"]
ENDS = [b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\n\n", b" ", b"{}", b"[]", b"null", b"1"]


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of ``data``."""
    yield at
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*at, key))
    elif isinstance(data, list):
        for i, value in enumerate(data[:3]):  # what is wrong with the fourth is wrong with these
            yield from places(value, (*at, i))


def put(data: Any, at: tuple[Any, ...], value: Any) -> Any:
    """A copy of ``data`` with ``value`` at a place; without that member where it is ``...``."""
    if not at:
        return value
    made = copy.deepcopy(data)
    inner = made
    for key in at[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return made


def forged(good: Any) -> st.SearchStrategy[bytes]:
    """Bytes of a JSON file that is nearly ``good``."""
    sites = list(places(good))
    whole = json.dumps(good).encode()

    def value(at: tuple[Any, ...]) -> st.SearchStrategy[bytes]:
        odd = st.sampled_from([*ODD, *([...] if at else [])])
        return odd.map(lambda v: json.dumps(put(good, at, v)).encode())

    def raw(at: tuple[Any, ...]) -> st.SearchStrategy[bytes]:
        marked = json.dumps(put(good, at, _MARK))
        return st.sampled_from(RAW).map(lambda r: marked.replace(json.dumps(_MARK), r).encode())

    def more(at: tuple[Any, ...]) -> bytes:
        return json.dumps(put(good, (*at, "more"), 1)).encode()

    objects = [at for at in sites if isinstance(_get(good, at), dict)]
    return st.one_of(
        st.sampled_from(sites).flatmap(value),
        st.sampled_from(sites).flatmap(raw),
        st.sampled_from(objects).map(more),
        st.integers(0, len(whole)).map(lambda n: whole[:n]),
        st.tuples(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=3)).map(
            lambda p: whole[: p[0]] + p[1] + whole[p[0] + 1 :]
        ),
        st.tuples(st.sampled_from(ENDS), st.booleans(), st.sampled_from(ENDS)).map(
            lambda p: p[0] + (whole if p[1] else b"") + p[2]
        ),
        st.just(whole.replace(b'": ', b'": 1, "twice": 2, "twice": ', 1)),
        st.just(json.dumps(good).encode("utf-16")),
    )


def _get(data: Any, at: tuple[Any, ...]) -> Any:
    for key in at:
        data = data[key]
    return data
