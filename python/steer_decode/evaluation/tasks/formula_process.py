"""The process that compares formulas.

``python formula_process.py`` answers one JSON line a question. It stands alone, so that it starts
without the rest of the package. Sympy may reckon for ever, or fill the memory, on a few characters
("9^{9^{9}}"), and nothing inside a process can stop it: the system does, by a limit on processor
time that is set anew for each question, whatever becomes of whoever asked. Memory is limited to 2
GiB of addresses.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

MEMORY = 2 << 30


def _limited(seconds: int) -> None:
    """Lets the system end this process ``seconds`` of processor time from now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard < 0 else min(most, hard), hard))


def _read(latex: str) -> Any:
    """What math-verify reads in LaTeX, or None."""
    from math_verify import LatexExtractionConfig, parse

    found = parse(f"${latex}$", [LatexExtractionConfig()], parsing_timeout=None)
    return next((part for part in found if not isinstance(part, str)), None)


def _same(reference: list[Any], answer: list[Any]) -> bool:
    """Whether two formulas agree; each is its LaTeX and the unit of its last digit, or None."""
    from math_verify import verify
    from sympy import Expr

    a, b = _read(reference[0]), _read(answer[0])
    if a is None or b is None:
        return False
    if all(isinstance(x, Expr) and not x.free_symbols for x in (a, b)):
        a, b = a.doit(), b.doit()
        if a.is_number and b.is_number and a.is_finite is not False and b.is_finite is not False:
            return _near(a, b, [x[1] for x in (reference, answer) if x[1]])
    return bool(verify(a, b, float_rounding=10, timeout_seconds=None))


def _near(a: Any, b: Any, steps: list[str]) -> bool:
    """Whether two numbers agree: exactly, but for the noise of doubles, or by the steps of one."""
    from sympy import Float, Rational

    difference = abs((a - b).evalf(30))
    if not difference.is_number or difference.has("zoo") or difference.is_real is False:
        return bool(a == b)
    size = max(abs(a.evalf(30)), abs(b.evalf(30)))
    noise = size * Rational(1, 10 ** (13 if a.has(Float) or b.has(Float) else 60))
    return bool(difference <= noise or any(difference < Rational(step) for step in steps))


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    from sympy import Expr

    if "read" in asked:
        found = _read(asked["read"])
        if isinstance(found, Expr) and found.doit().is_number:
            found.evalf(15)  # what cannot be reckoned is found out now
        return {"read": None if found is None else str(found)[:200]}
    return {"same": _same(*asked["same"])}


def main() -> None:
    """Answer until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import math_verify  # noqa: F401  # before the limits, for it takes a second

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard < 0 else min(MEMORY, hard), hard))
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        _limited(asked["seconds"])
        try:
            said = _answer(asked)
        except (MemoryError, RecursionError) as error:
            said = {"error": type(error).__name__}
        except Exception:  # what math-verify cannot compare is not the same
            said = {"read": None, "same": False}
        print(json.dumps(said), file=out, flush=True)


if __name__ == "__main__":
    main()
