"""Lines of JSON, each packed and with a digest.

The file is gzip, one member a line, so that a line can be appended and one that was cut off is
found. The last member of each object is a digest over the line and what it stands under: a line
that was changed, or comes from a file with another header, is found. A digest is no signature;
whoever means to forge a file can.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

from ...util.documents import Fault, parse

MAGIC = b"\x1f\x8b"
_GZIP = 31  # of zlib's wbits: a gzip member with its header and checksum
_LONGEST = 2**28  # bytes of a line; an answer of 100,000 tokens has a seventh of it
_CHUNK = 2**16
_DIGEST = re.compile(rb',"digest":"([0-9a-f]{16})"\}\Z')


def sealed(value: Any, over: str = "") -> tuple[bytes, str]:
    """``value`` as a line with its digest, and the digest.

    Args:
        value: an object of JSON.
        over: the digest that it stands under, of the header say.
    """
    body = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    digest = _digest(body, over)
    return body[:-1] + f',"digest":"{digest}"}}\n'.encode(), digest


def _digest(body: bytes, over: str) -> str:
    return hashlib.sha256(over.encode() + body).hexdigest()[:16]


def opened(line: bytes, over: str) -> tuple[Any, str]:
    """The object of a line of :func:`sealed`, and its digest.

    Fault for anything else.
    """
    text = line.rstrip(b"\n")
    found = _DIGEST.search(text)
    if found is None:
        raise Fault("has no digest at its end")
    body = text[: found.start()] + b"}"
    digest = found[1].decode()
    if _digest(body, over) != digest:
        raise Fault("its digest does not fit: it was changed, or comes from another file")
    try:
        return parse(body.decode()), digest
    except UnicodeDecodeError:
        raise Fault("it is not UTF-8 text") from None


def packed(line: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    return packer.compress(line) + packer.flush()


def lines_of(data: bytes) -> Iterator[bytes]:
    """The lines of a file, packed or not.

    Fault for what is neither.
    """
    if not data.startswith(MAGIC):
        yield from data.splitlines(keepends=True)
        return
    at = 0
    while at < len(data):
        line, at = _member(data, at)
        if not line.endswith(b"\n") or line.count(b"\n") != 1:
            raise Fault("it is not one line")
        yield line


def _member(data: bytes, start: int) -> tuple[bytes, int]:
    """What the gzip member at ``start`` holds, and where it ends.

    Raises:
        EOFError: it is cut off.
        Fault: it is damaged, or too long for a record.
    """
    reader = zlib.decompressobj(_GZIP)
    parts, size, at = [], 0, start
    while not reader.eof and at < len(data):
        some = data[at : at + _CHUNK]
        at += len(some)
        try:
            parts.append(reader.decompress(some, _LONGEST - size))
        except zlib.error as error:
            raise Fault(f"it is damaged: {error}") from error
        size += len(parts[-1])
        if size >= _LONGEST:
            raise Fault(f"it is longer than {_LONGEST:,} bytes")
    if not reader.eof:
        raise EOFError
    return b"".join(parts), at - len(reader.unused_data)


def whole_bytes(data: bytes) -> int:
    """How many bytes of a file are whole lines.

    What is behind them was cut off. Damage is not looked for here: what is damaged counts as whole,
    and is found when it is read.
    """
    if not data.startswith(MAGIC):
        return 0 if MAGIC.startswith(data) else data.rfind(b"\n") + 1
    at = 0
    while at < len(data):
        try:
            _, at = _member(data, at)
        except EOFError:
            return at
        except Fault:
            return len(data)
    return at
