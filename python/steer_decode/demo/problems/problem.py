"""A problem, and its split: training, calibration or test.

The split is a property of the prompt: a hash of its text puts it into one of ten buckets, of
which one is test, one is calibration and the rest are training. A prompt that is held out can
therefore never be drawn in training, whatever seeds are used.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

DIFFICULTIES = (1, 2, 3, 4, 5)
SPLITS = ("train", "calibration", "test")
STEP_BREAK = "\n\n"

_BUCKETS = 10
_HELD_OUT = {0: "test", 1: "calibration"}


@dataclass(frozen=True)
class Problem:
    """One problem.

    `prompt` is the exact text to tokenise, `solution` the reference completion. The steps of
    `solution` are joined by "\\n\\n" and the last one is the answer step. `index` is the position
    in the stream of its domain and split (-1 for a problem made for training).
    """

    domain: str
    difficulty: int
    index: int
    prompt: str
    solution: str

    @property
    def steps(self) -> list[str]:
        """The reference steps, the answer step last."""
        return self.solution.split(STEP_BREAK)


def split_of(prompt: str) -> str:
    """The split to which a prompt belongs.

    80 % train, 10 % calibration, 10 % test.
    """
    digest = hashlib.sha256(prompt.encode()).digest()
    return _HELD_OUT.get(int.from_bytes(digest[:8], "big") % _BUCKETS, "train")


def answer_word(completion: str) -> str | None:
    """The word after the first "answer".

    None where there is none.
    """
    words = completion.split()
    for word, following in itertools.pairwise(words):
        if word == "answer":
            return following
    return None
