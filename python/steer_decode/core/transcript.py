"""The one text that two models write.

A list of token ids, and who wrote each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Writer = Literal["small", "large"]
WRITERS: tuple[Writer, Writer] = get_args(Writer)


def other(writer: Writer) -> Writer:
    """The model that is not ``writer``."""
    return "large" if writer == "small" else "small"


class Transcript:
    """Token ids of a prompt and of what follows it.

    It belongs to no model. How much of it each model has read stands here, and nothing else ties
    the two together: to catch up is to read what lies between the mark and the end.

    Attributes:
        ids: of the tokens.
        writers: of each token; None for those of the prompt.
        prompt_length: tokens of the prompt.
        read: for each model its read mark, the tokens from the beginning that it has read. An
            engine raises it; what changes the text lowers it.
    """

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self.ids: list[int] = list(prompt_ids)
        self.writers: list[Writer | None] = [None] * len(self.ids)
        self.prompt_length = len(self.ids)
        self.read: dict[Writer, int] = dict.fromkeys(WRITERS, 0)

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, token: int, writer: Writer) -> None:
        """Adds a token that ``writer`` has written."""
        self.ids.append(token)
        self.writers.append(writer)

    def restart(self, prompt_ids: Sequence[int]) -> int:
        """Become a new prompt, in place.

        Returns how many leading tokens are as they were. So a model that read the last turn of a
        conversation has read the start of the next one.
        """
        common = min(len(self), len(prompt_ids))
        kept = next((i for i in range(common) if self.ids[i] != prompt_ids[i]), common)
        self.ids[kept:] = prompt_ids[kept:]
        self.writers[kept:] = [None] * (len(prompt_ids) - kept)
        self.prompt_length = len(prompt_ids)
        self.unread(kept)
        return kept

    def truncate(self, length: int) -> None:
        """Drop the tokens from position ``length`` on.

        The prompt cannot be dropped.
        """
        if not self.prompt_length <= length <= len(self.ids):
            raise ValueError(
                f"length must lie in {self.prompt_length}..{len(self.ids)}, got {length}"
            )
        del self.ids[length:]
        del self.writers[length:]
        self.unread(length)

    def unread(self, length: int) -> None:
        """Move both read marks back to ``length``.

        Where they lie beyond.
        """
        for writer in WRITERS:
            self.read[writer] = min(self.read[writer], length)

    def foreign(self, writer: Writer) -> int:
        """How many foreign tokens ``writer`` has not read.

        Those are foreign that it did not write itself.
        """
        return sum(w != writer for w in self.writers[self.read[writer] :])
