"""Rotary positions: their reach, and what scales them.

A config says how long a text they hold, and where their frequencies change with its length. Two
kinds of scaling have frequencies that depend on the longest position of a pass, so on other rows
beside it and on how a text is cut into passes:

- *longrope* (Phi-3, Phi-4-mini) has one set up to the length of pretraining and one beyond;
- *dynamic* NTK has, beyond that length, frequencies of its own for every length.

All others (linear, YaRN, Llama 3's) give a position the same angle whatever else is in the pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Their configs may name the length before scaling; the frequencies hold ``factor`` times that.
_STRETCHED = ("linear", "dynamic", "yarn")


@dataclass(frozen=True)
class Scaled:
    """Frequencies that depend on the length of the text.

    Attributes:
        boundary: longest text with the original frequencies.
        grows: each length beyond has frequencies of its own; else all have the same.
        anew: ``generate`` reads the whole text again when it grows beyond ``boundary``, so all keys
            have the frequencies of the text's length. Else those of a prompt have the frequencies
            of the prompt's length, and those of a later token of its own.
    """

    boundary: int
    grows: bool = False
    anew: bool = False

    def frequencies(self, length: int) -> int:
        """The number of a pass's frequencies; 0 are the original.

        The text of the pass is ``length`` long.
        """
        if length <= self.boundary:
            return 0
        return length if self.grows else 1


def rope_sections(config: Any) -> list[Mapping[str, Any]]:
    """The parameters of rotary positions.

    One mapping for each kind of layer that has its own.

    Args:
        config: of a text model. transformers 5 keeps them in ``rope_parameters``, 4 in
            ``rope_scaling``, None where nothing is scaled.
    """
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(found, Mapping):
        return []
    nested = [value for value in found.values() if isinstance(value, Mapping)]
    return nested or [found]


def rope_kind(section: Mapping[str, Any]) -> str:
    """ "yarn", "longrope" and so on; old configs call it ``type``."""
    return str(section.get("rope_type") or section.get("type") or "default")


def context_length(config: Any) -> int | None:
    """Longest text that the positions of a model hold.

    Scaling is included; None if nothing says. Linear, dynamic and YaRN scaling multiply
    ``original_max_position_embeddings``, or what the config calls ``max_position_embeddings`` where
    that is not given (as transformers computes the frequencies). A config that already names the
    product keeps it. Where some layers only are scaled (Gemma 3), and for all other kinds,
    ``max_position_embeddings`` is the length.
    """
    length: int | None = getattr(config, "max_position_embeddings", None) or None
    sections = rope_sections(config)
    if length is None or not sections or hasattr(config, "rope_local_base_freq"):
        return length
    return min(_stretched(section, length) for section in sections)


def _stretched(section: Mapping[str, Any], length: int) -> int:
    factor = section.get("factor")
    if rope_kind(section) not in _STRETCHED or not isinstance(factor, int | float):
        return length
    original = section.get("original_max_position_embeddings") or length
    return max(length, int(factor * original))


def boundaries(config: Any) -> list[int]:
    """Lengths at which the frequencies may change.

    The longest first; none if nothing is scaled.
    """
    sections = [s for s in rope_sections(config) if rope_kind(s) != "default"]
    if not sections:
        return []
    named = [s.get("original_max_position_embeddings") for s in sections]
    named += [getattr(config, "original_max_position_embeddings", None)]
    named += [getattr(config, "max_position_embeddings", None)]
    return sorted({n for n in named if isinstance(n, int) and n > 0}, reverse=True)
