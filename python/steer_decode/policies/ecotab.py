"""EcoTab (arXiv 2605.29319): doubts about table and words apart.

Faithful, as far as its abstract and its place in the comparison tell (neither code nor appendix was
available): a trie of the table's cells tells which tokens of a step are table tokens; the mean
entropies of table tokens and of the others are each mapped by a logistic function to the risk that
the small model's next step fails; d = 1 - (1 - d_tab)(1 - d_text) is their Noisy-OR, and above a
threshold the large model writes the next step. The maps are fitted to labels from suffix
replacement: the next step is written by the small model and the rest by the large one; if the
answer is then wrong, and right with the large model alone from the same place, the step has failed.

Ours: matching is by whole words and letters, not tokens; the maps are fitted together, by maximum
likelihood of the Noisy-OR; a kind of which a step has no token adds no risk; the same maps judge
steps of either writer, as the labels come from steps of both. Where no strings are given they are
the cells of the question's table, or, where it has none, the words of the question.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

from ..core.signals import SIGNALS
from ..core.trace import Step
from ..core.transcript import Writer
from ..errors import SteerError
from ..models.two_models import TwoModels
from ..util.checks import fraction, loaded
from ..util.files import read_text
from .base import Policy, Redo
from .fitted.file import path_setting
from .fitted.logistic import LogisticMaps, noisy_or

_RULE = re.compile(r":?-{2,}:?")  # between the head of a Markdown table and its body


class Trie:
    """Strings to be found in a text, as whole words.

    The longest at each place.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = list(strings)
        self._root: dict[str, Any] = {}
        for string in strings:
            node = self._root
            for letter in string:
                node = node.setdefault(letter, {})
            if string:
                node[""] = True

    def __reduce__(self) -> tuple[Any, ...]:
        return Trie, (self._strings,)  # A pickle of nested nodes would be as deep as a string.

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the strings stand, from left to right, without overlap."""
        found, at = [], 0
        while at < len(text):
            end = self._longest(text, at) if _edge(text, at) else at
            if end > at:
                found.append((at, end))
            at = max(end, at + 1)
        return found

    def _longest(self, text: str, start: int) -> int:
        node, best = self._root, start
        for at in range(start, len(text)):
            if text[at] not in node:
                break
            node = node[text[at]]
            if "" in node and _edge(text, at + 1):
                best = at + 1
        return best


def _edge(text: str, at: int) -> bool:
    """Whether a word may begin or end at ``at``."""
    inside = 0 < at < len(text)
    return not (inside and text[at - 1].isalnum() and text[at].isalnum())


def cells(prompt: str) -> list[str]:
    """The cells of the Markdown tables in ``prompt``.

    Its words where there is none.
    """
    rows = [line.split("|") for line in prompt.splitlines() if line.count("|") >= 2]
    found = [cell.strip() for row in rows for cell in row]
    found = [cell for cell in found if cell and not _RULE.fullmatch(cell)]
    words = [word for word in prompt.split() if any(c.isalnum() for c in word)]
    return list(dict.fromkeys(found or words))


@lru_cache(maxsize=64)
def _trie_of(prompt: str) -> Trie:
    return Trie(cells(prompt))


def table_tokens(texts: Sequence[str], prompt: str, trie: Trie | None = None) -> list[bool]:
    """Which tokens of a step overlap a string of ``trie``.

    By default the strings are the cells.
    """
    spans, flags, at = (trie or _trie_of(prompt)).spans("".join(texts)), [], 0
    for text in texts:
        end = at + len(text)
        flags.append(any(start < end and at < stop for start, stop in spans))
        at = end
    return flags


def split_entropy(step: Step) -> tuple[float, float]:
    """Mean entropy of a step's table tokens, and of others.

    NaN where there is none.
    """
    parts: tuple[list[float], list[float]] = [], []
    for value, in_table in zip(step.values, step.counted, strict=True):
        parts[0 if in_table else 1].append(value)
    table, text = (sum(part) / len(part) if part else math.nan for part in parts)
    return table, text


class EcoTab(Policy):
    """Large model where the small one is likely to fail.

    It writes the next step.

    Args:
        threshold: most risk at which the small model writes, in [0, 1].
        path: the two maps, made by ``steer train-router ecotab``.
        strings: a file with a string a line, or the strings; by default they are taken from each
            question, see :func:`cells`.

    Raises:
        SteerError: no path, a threshold out of its range, or a file that cannot be read.
    """

    name: ClassVar[str] = "ecotab"
    shipped: ClassVar[str] = "ecotab.json"
    signal = SIGNALS["entropy"]

    def __init__(
        self,
        threshold: float = 0.2,
        path: str | Path | LogisticMaps | None = None,
        strings: str | Path | Sequence[str] | None = None,
    ) -> None:
        self.threshold = fraction("threshold", threshold)
        if path is None:
            raise SteerError("ecotab needs path=FILE, made by `steer train-router ecotab`")
        self.parameters, self._path = loaded(
            "path", path, LogisticMaps, partial(LogisticMaps.load, kind=self.name)
        )
        self.fitted = str(dict(self.parameters.maps))
        self._strings = strings
        self._trie = None if strings is None else Trie(_lines(strings))

    def check(self, pair: TwoModels) -> None:
        self.parameters.check(pair, self._path)

    def counted(self, texts: Sequence[str], prompt: str) -> list[bool]:
        return table_tokens(texts, prompt, self._trie)

    def stays(self, step: Step) -> bool:
        return True

    def after_step(self, step: Step) -> Writer | Redo:
        return "large" if self.risk(step) > self.threshold else "small"

    def risk(self, step: Step) -> float:
        """That the small model fails at the step after ``step``."""
        values = dict(zip(("table", "text"), split_entropy(step), strict=True))
        maps = self.parameters.maps
        return noisy_or([maps[k](x) for k, x in values.items() if not math.isnan(x)])

    def __str__(self) -> str:
        strings = f":strings={self._strings}" if isinstance(self._strings, str | Path) else ""
        return f"{self.name}:threshold={self.threshold:g}{path_setting(self._path)}{strings}"


def _lines(strings: str | Path | Sequence[str]) -> Sequence[str]:
    if not isinstance(strings, str | Path):
        if not isinstance(strings, Sequence) or not all(isinstance(s, str) for s in strings):
            raise SteerError(f"strings must be a file or a list of strings, got {strings!r}")
        return strings
    lines = read_text(strings, "strings").splitlines()
    kept = [line.strip() for line in lines if line.strip()]
    if not kept:
        raise SteerError(f"{str(strings)!r} holds no strings: give one a line")
    return kept
