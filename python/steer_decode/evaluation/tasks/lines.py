"""Files of questions, read in one way.

They hold JSON objects, one a line, or plain text where that is allowed.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from ...errors import SteerError
from ...util.files import read_text
from ...util.text import short

# "{1, 2} has how many elements?" is a question, '{"prompt": ...' is meant to be JSON.
_OBJECT = re.compile(r"\s*\{\s*[\"}]")


def read_lines(path: Path, what: str, form: str) -> list[tuple[int, str]]:
    """Read a file's lines that are not blank.

    Each comes with its number, from 1 on. The file is UTF-8, with or without a byte order mark;
    lines end as any system ends them, and nowhere else (a JSON text may hold other separators).
    Nothing is a comment.

    Args:
        path: the file.
        what: the file holds, "tasks" or "prompts", for messages.
        form: what a line should be, likewise.

    Raises:
        SteerError: the file cannot be read, is not UTF-8, or holds blank lines only.
    """
    text = read_text(path, what)
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        kind = "problems" if what == "tasks" else what
        raise SteerError(f"{str(path)!r} holds no {kind}: give {form}")
    return lines


def read_prompts(path: Path) -> list[str]:
    """Read the prompts of a file.

    Of each line its "prompt" if it is a JSON object, else all of it.

    Raises:
        SteerError: a file that cannot be read, or a line that opens as a JSON object and is none
            with a "prompt" that is a text.
    """
    found = []
    for number, line in read_lines(path, "prompts", "one a line"):
        if _OBJECT.match(line):
            where = f"line {number} of {str(path)!r}"
            line = text_of(read_object(line, where, 'an object with "prompt"'), "prompt", where)
        found.append(line)
    return found


def read_object(line: str, where: str, form: str) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        SteerError: it holds no such thing.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SteerError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise SteerError(f"{where} is not {form}")
    return record


def text_of(record: dict[str, Any], key: str, where: str) -> str:
    """A text of a record.

    A number is taken as it is written.

    Raises:
        SteerError: it is missing, blank or something else.
    """
    value = record.get(key)
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None else short(value)
        raise SteerError(f"{where}: {key!r} must be a text, got {got}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SteerError(f"{where}: {key!r} holds half a character (a lone surrogate)") from error
    return value
