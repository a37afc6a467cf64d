"""Whether two methods are the same to the letter.

Each family of transformers has classes of its own, most of them copies.
"""

from __future__ import annotations

import inspect
from typing import Any


def code_of(function: Any) -> tuple[object, ...] | None:
    """What a function does, decorations aside; None where nothing tells."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return None if code is None else (code.co_code, code.co_consts, code.co_names)
