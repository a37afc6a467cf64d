"""What fitted files share.

The pair that they are for, a version, how they are read and written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ...errors import SteerError
from ...models.two_models import TwoModels
from ...util import documents
from ...util.files import write_whole

SHIPPED = Path(__file__).parents[2] / "demo" / "routers"  # of the demo pair
F = TypeVar("F", bound="FittedFile")


@dataclass(frozen=True)
class Phrases:
    """What messages say of a kind of file.

    Attributes:
        noun: what it is, as in "calibration".
        fitted: how it came about, as in "was made".
        wrong: what is said of another file, as in "is not a calibration".
        way: how to get a right one.
        router: what it is for, where that is to be said, as in " of router 'both-sides'".
    """

    noun: str
    fitted: str
    wrong: str
    way: str
    router: str = ""


class Fitted:
    """Numbers fitted for one pair.

    A frozen dataclass derives from it.

    Attributes:
        pair: fingerprint of the pair.
    """

    pair: str

    @classmethod
    def phrases(cls, kind: str) -> Phrases:
        """What messages say of it.

        ``kind`` tells files of one class for several routers apart.
        """
        raise NotImplementedError

    def check(self, pair: TwoModels, source: str = "") -> None:
        """Refuse numbers that were fitted for another pair.

        Where the weights of ``pair`` are elsewhere, whoever gives them has to know.

        Args:
            pair: the one that is to be served.
            source: the file that they came from, if any.

        Raises:
            SteerError: the fingerprints differ.
        """
        if pair.fingerprint is not None and self.pair != pair.fingerprint:
            say = self.phrases(getattr(self, "kind", ""))
            named = f"{say.noun} {source!r}" if source else f"the {say.noun}"
            raise SteerError(
                f"{named}{say.router} {say.fitted} for another pair ({self.pair}, this one is "
                f"{pair.fingerprint}): {say.way}"
            )


class FittedFile(Fitted):
    """Fitted numbers that are saved as JSON.

    Attributes:
        VERSION: of the file's form.
        KIND: the router that stands in every file of this class; empty where it says none or may
            say several.
    """

    VERSION: ClassVar[int] = 1
    KIND: ClassVar[str] = ""

    @classmethod
    def read(cls: type[F], value: Any, kind: str) -> F:
        """Make the object of JSON without version and KIND.

        Raises:
            Fault: it makes none.
        """
        raise NotImplementedError

    def members(self) -> Mapping[str, Any]:
        """What is written behind version and KIND, in this order."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write through a temporary file and a rename.

        Raises:
            SteerError: it cannot be written, or holds a number that is not finite.
        """
        head = {"version": self.VERSION} | ({"kind": self.KIND} if self.KIND else {})
        try:
            text = json.dumps({**head, **self.members()}, indent=1, allow_nan=False)
        except ValueError as error:
            raise SteerError(f"cannot write {str(path)!r}: {error}") from error
        write_whole(Path(path), text + "\n")

    @classmethod
    def load(cls: type[F], path: str | Path, kind: str = "") -> F:
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            kind: the router that it has to be for, where one class serves several.

        Raises:
            SteerError: no such file, or one that holds something else.
        """
        phrases = cls.phrases(kind)
        check = documents.versioned(cls.VERSION, lambda value: cls.read(value, kind), cls.KIND)
        return documents.read(path, phrases.noun, check, phrases.wrong, phrases.way)


def path_setting(path: str) -> str:
    """The setting that names a file.

    Nothing for one that comes with the package.
    """
    return "" if Path(path).parent == SHIPPED else f":path={path}"
