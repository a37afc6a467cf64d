r"""Which tokens of a step belong to mathematical expressions.

On mathematics STEER takes the confidence of a step over these tokens alone (arXiv 2511.06190,
section 3). The paper gives no rule; this one is ours, in the spirit of a third-party port. A token
counts if it lies in ``$..$``, ``\(..\)``, ``\[..\]`` or ``\begin{..}..\end{..}``, or if it holds a
digit, an operator or a LaTeX command. Nothing but brackets, backslashes and space does not count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# A display that is still open at the end of the step reaches to it; a lone dollar is money.
_REGION = re.compile(
    r"\$\$.*?(?:\$\$|\Z)|\$[^$\n]+\$|\\\(.*?(?:\\\)|\Z)|\\\[.*?(?:\\\]|\Z)"
    r"|\\begin\{([a-z]+\*?)\}.*?(?:\\end\{\1\}|\Z)",
    re.DOTALL,
)
_MATH = re.compile(r"[0-9+\-*/=^_%<>]|\\[A-Za-z]+")
_BARE = re.compile(r"[\s()\[\]{}\\]*")


def math_tokens(texts: Sequence[str]) -> list[bool]:
    """Whether the confidence of each token counts, by its text.

    The tokens are those of one step.
    """
    whole = "".join(texts)
    regions = [match.span() for match in _REGION.finditer(whole)]
    counted, at = [], 0
    for text in texts:
        end = at + len(text)
        inside = any(start < end and at < stop for start, stop in regions)
        bare = _BARE.fullmatch(text) is not None
        counted.append(not bare and (inside or _MATH.search(text) is not None))
        at = end
    return counted
