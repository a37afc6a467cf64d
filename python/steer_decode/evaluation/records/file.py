"""A file of records, which grows with its answers.

The first line is the header, each further one an answer, see ``lines.py``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ...errors import SteerError
from ...util.documents import Fault
from ...util.files import PATH_ERRORS, lock, read_bytes, reason
from ...util.interruption import held
from ...util.text import short
from . import NAME
from .lines import MAGIC, lines_of, opened, packed, sealed, whole_bytes
from .record import AnswerRecord, RecordHeader, RecordKey, Records
from .schema import answer_of, answer_to_dict, header_of, header_to_dict

_WAY = "get the file again, or make one with `steer eval --record FILE`"


class RecordFile:
    """A file of records that grows with its answers.

    Args:
        path: the file; a folder stands for :data:`NAME` in it.
        header: what all of its records share.

    Raises:
        SteerError: it cannot be written, is being written to by another run, is of another pair or
            was made with other settings, or holds something else than records.
    """

    def __init__(self, path: Path, header: RecordHeader) -> None:
        self.path = path / NAME if path.is_dir() else path
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.path.open("ab")
            try:
                lock(
                    self._file,
                    f"another run is writing records to {str(self.path)!r}: wait for its end, or "
                    "choose another --record",
                )
                self._open(header)
            except BaseException:
                self.close()
                raise
        except PATH_ERRORS as error:
            if isinstance(error, SteerError):
                raise
            raise SteerError(
                f"cannot write records to {str(self.path)!r}: {reason(error)}; choose another "
                "--record"
            ) from error

    def _open(self, header: RecordHeader) -> None:
        data = read_bytes(self.path, "records")
        line, self._digest = sealed(header_to_dict(header))
        self.keys: set[RecordKey] = set()
        whole = whole_bytes(data)
        if not whole and packed(line).startswith(data):  # nothing yet, or killed at the first line
            os.truncate(self.path, 0)
            self._append(line)
            return
        if not data.startswith(MAGIC):
            raise SteerError(
                f"{str(self.path)!r} is there and no packed file of records: choose another "
                "--record, or remove it"
            )
        old = parsed(self.path, data[:whole])
        told = difference(header, old.header)
        if told:
            raise SteerError(
                f"{str(self.path)!r} holds records {told}: choose another --record, or go back to "
                "those settings"
            )
        if whole < len(data):  # was being written when the run was killed
            os.truncate(self.path, whole)
        self._digest = opened(next(lines_of(data)), "")[1]
        self.keys = {answer.key for answer in old.answers}

    def add(self, answer: AnswerRecord) -> None:
        """Append a record and hand it to the system.

        One that is there already is left.

        Raises:
            SteerError: the system does not take it: the disk is full, say.
        """
        if answer.key in self.keys:
            return
        try:
            with held():
                self._append(sealed(answer_to_dict(answer), self._digest)[0])
                self.keys.add(answer.key)
        except OSError as error:
            raise SteerError(
                f"cannot write to {str(self.path)!r}: {error.strerror}; {len(self.keys)} records "
                "are kept, and the same command goes on once there is room"
            ) from error

    def _append(self, line: bytes) -> None:
        self._file.write(packed(line))
        self._file.flush()

    def close(self) -> None:
        """Leave the file to others."""
        with suppress(OSError):
            self._file.close()


def write_records(path: Path, records: Records) -> None:
    """Write all of ``records`` to a new file.

    Raises:
        SteerError: as :class:`RecordFile`, or there is such a file.
    """
    if path.exists() and not path.is_dir():
        raise SteerError(f"{str(path)!r} is there already: choose another --out, or remove it")
    file = RecordFile(path, records.header)
    try:
        for answer in records.answers:
            file.add(answer)
    finally:
        file.close()


def read_records(paths: Sequence[Path]) -> Records:
    """Read files of records, of one pair and made alike.

    Raises:
        SteerError: one that cannot be read, is of another version, damaged, changed or cut off;
            or files that do not belong together.
    """
    header: RecordHeader | None = None
    answers: dict[RecordKey, AnswerRecord] = {}
    for given in paths:
        path = given / NAME if given.is_dir() else given
        data = read_bytes(path, "records")
        if not data:
            raise SteerError(f"{str(path)!r} is empty: {_WAY}")
        whole = whole_bytes(data)
        if whole < len(data):
            raise SteerError(
                f"{str(path)!r} is cut off in the middle of a record: if its `steer eval --record` "
                f"was interrupted, the same command goes on; else {_WAY}"
            )
        found = parsed(path, data)
        if header is not None:
            told = difference(found.header, header)
            if told:
                raise SteerError(
                    f"{str(path)!r} does not belong to {str(paths[0])!r}, whose records are {told}:"
                    " replay files of one pair and one sampling together"
                )
        header = header or found.header
        answers |= {answer.key: answer for answer in found.answers}
    assert header is not None, "paths are one or more"
    return Records(header, list(answers.values()))


def difference(new: RecordHeader, old: RecordHeader) -> str:
    """How ``old`` records differ from ``new`` ones, in words."""
    if old.pair != new.pair:
        return f"of another pair ({old.pair}, this one is {new.pair})"
    for name in ("vocabulary", "vocab_size", "sampling", "source", "top", "options"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            return f"made with other settings ({name} was {short(was)}, now {short(now)})"
    return ""


def parsed(path: Path, data: bytes) -> Records:
    """The records in the whole lines ``data`` of a file.

    Raises:
        SteerError: a line that is not what it has to be; the message names it.
    """
    number = 1
    try:
        lines = lines_of(data)
        head, over = opened(next(lines), "")
        header = header_of(head)
        check = answer_of(header)
        answers: dict[RecordKey, AnswerRecord] = {}
        while True:
            number += 1
            line = next(lines, None)
            if line is None:
                break
            answer = check(opened(line, over)[0])
            if answer.key in answers:
                raise Fault(f"is a second record of {short(':'.join(map(str, answer.key)))}")
            answers[answer.key] = answer
    except Fault as fault:
        raise SteerError(
            f"line {number} of {str(path)!r} is no record ({fault}): {_WAY}"
        ) from fault
    return Records(header, list(answers.values()))
