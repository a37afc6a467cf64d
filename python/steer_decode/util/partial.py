"""What long work has made so far.

It is in a file beside the one that the work will make.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

from ..errors import SteerError
from . import documents
from .files import lock
from .interruption import held

FORMAT = 1
# Numbers that are not finite stand among the records: log-probabilities may be.
_HEAD = documents.record({"settings": documents.mapped(documents.anything)})
_BATCH = documents.listed(documents.anything)
T = TypeVar("T")


class Partial:
    """Batches of records, kept over an interruption.

    They come in the order in which they are asked for. The work asks for one batch after another
    and always for the same ones, as it does if it depends on nothing but its settings and the
    batches before. What a run that was cut off had written is read back in place of being made
    again, number for number, so that the end is the same.

    The file is named by ``out`` and the settings: a run with other settings has a file of its own.
    Its first line holds them, each further one a batch. A line that was cut off is made again. The
    file goes when the work is done (:meth:`finish`), and stays if it was cut off.

    Args:
        out: the file that the work makes; where it is a device or a pipe, nothing is kept.
        settings: what the batches depend on, as plain data.

    Raises:
        SteerError: the file cannot be written, another process is writing it, or a line of it is
            not what was written.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.settings: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **settings}))
        self._asked = 0
        self._batches: list[list[Any]] = []
        self._file: TextIO | None = None
        self.path: Path | None = None
        if out.exists() and not out.is_file():
            return
        text = json.dumps(self.settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        self.path = out.with_name(f"{out.name}.part-{digest}.jsonl")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            lock(
                self._file,
                f"another process is making {str(out)!r} with the same settings: wait for its "
                "end, or choose another --out",
            )
            self._batches = self._read(self.path)
        except OSError as error:
            raise SteerError(
                f"cannot write {str(self.path)!r}: {error.strerror}; choose another --out"
            ) from error
        self.found = sum(len(batch) for batch in self._batches)

    found = 0
    """Records that an earlier run has left."""

    making = False
    """Whether a batch is being made, or was when an error ended the work."""

    @property
    def records(self) -> int:
        """Records that are kept now."""
        return sum(len(batch) for batch in self._batches) if self.path else 0

    def batch(
        self, make: Callable[[], Iterable[T]], to: Callable[[T], Any], back: Callable[[Any], T]
    ) -> Iterator[T]:
        """The next batch, as it was kept or newly made.

        What is made is kept.

        Args:
            make: makes it, item by item.
            to: plain data of an item.
            back: the item again; KeyError, TypeError or ValueError where the data is something
                else.

        Raises:
            SteerError: a kept record is something else, or the disk is full.
        """
        number = self._asked
        self._asked += 1
        if number < len(self._batches):
            for record in self._batches[number]:
                try:
                    item = back(record)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise self._foreign(number + 2) from error
                yield item
            return
        self.making = True
        items = list(make())
        if self._file is not None:
            self._append([to(item) for item in items])
        self.making = False
        yield from items

    def others(self) -> list[tuple[Path, str]]:
        """Batches of runs with other settings.

        Their files, and the first setting that differs.
        """
        if self.path is None:
            return []
        stem = glob.escape(self.path.name.rpartition(".part-")[0])
        found = []
        for path in sorted(self.path.parent.glob(f"{stem}.part-*.jsonl")):
            if path != self.path:
                with suppress(OSError, ValueError), path.open(encoding="utf-8") as file:
                    settings = _HEAD(documents.parse(file.readline(), infinite=True))["settings"]
                    if file.readline():
                        found.append((path, self._difference(settings)))
        return found

    def finish(self) -> None:
        """The work is done, and its file with it."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the file to the next run."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            if not self._batches and self.path is not None:
                self.path.unlink(missing_ok=True)

    def _append(self, records: list[Any]) -> None:
        assert self._file is not None
        assert self.path is not None
        try:
            with held():
                self._file.write(json.dumps(records) + "\n")
                self._file.flush()
                self._batches.append(records)
        except OSError as error:
            raise SteerError(
                f"cannot write to {str(self.path)!r}: {error.strerror}; {self.records} answers are "
                "kept, and the same command goes on once there is room"
            ) from error

    def _read(self, path: Path) -> list[list[Any]]:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # was being written when the run was killed
            os.truncate(path, whole)
        lines = data[:whole].splitlines()
        if not lines:
            assert self._file is not None
            self._file.write(json.dumps({"settings": self.settings}) + "\n")
            self._file.flush()
            return []
        batches = []
        for number, line in enumerate(lines, 1):
            try:
                record = documents.parse(line.decode(), infinite=True)
                if number > 1:
                    batches.append(_BATCH(record))
                elif _HEAD(record)["settings"] != self.settings:
                    raise documents.Fault("other settings")
            except ValueError as error:  # a Fault among them, and bytes that are no text
                raise self._foreign(number) from error
        return batches

    def _foreign(self, line: int) -> SteerError:
        return SteerError(
            f"line {line} of {str(self.path)!r} is not what was written there: remove the file, "
            "and the work begins anew"
        )

    def _difference(self, other: Mapping[str, Any]) -> str:
        for key in sorted(self.settings.keys() | other.keys()):
            old, new = other.get(key), self.settings.get(key)
            if old != new:
                return f"{key} was {str(old)[:40]}, now {str(new)[:40]}"
        return "none"
