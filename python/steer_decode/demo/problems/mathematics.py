"""Mathematics: chains of operations on numbers from 0 to 49.

    Compute 5 *6 +6 -3 ?        30 = 5 *6 / 36 = 30 +6 / 33 = 36 -3 / answer 33

Every value is one token, and so is every operator with its operand. A step names its result
first. The difficulty picks the kind of operation for every step of the problem; the kinds are
disjoint, so no prompt occurs at two difficulties:

    1  + or - 1 to 9, within one ten        2  + or - 1 to 9, across a ten
    3  + or - 10 to 19, no carry            4  + or - 11 to 19, with a carry or a borrow
    5  * or / by 2 to 9
"""

from __future__ import annotations

import random
from functools import cache

from .problem import STEP_BREAK, answer_word

DOMAIN = "math"
STEPS = (3, 6)  # fewest and most operations of a problem in any split
LARGEST_VALUE = 49
LARGEST_TERM = 19
LARGEST_FACTOR = 9

VALUES = tuple(str(value) for value in range(LARGEST_VALUE + 1))
OPERATIONS = tuple(
    [f"{sign}{n}" for sign in "+-" for n in range(1, LARGEST_TERM + 1)]
    + [f"{sign}{n}" for sign in "*/" for n in range(2, LARGEST_FACTOR + 1)]
)


def apply(value: int, operation: str) -> int | None:
    """The result of one operation.

    None where it is no whole number from 0 to 49.
    """
    sign, n = operation[0], int(operation[1:])
    if sign == "/":
        return value // n if value and value % n == 0 else None
    result = value * n if sign == "*" else value + n if sign == "+" else value - n
    if sign == "*" and value == 0:
        return None  # a chain that reaches 0 would stay there
    return result if 0 <= result <= LARGEST_VALUE else None


def difficulty_of(value: int, operation: str) -> int | None:
    """The difficulty class of `operation` on `value`.

    None for terms that are never asked.
    """
    sign, n = operation[0], int(operation[1:])
    if sign in "*/":
        return 5
    units = value % 10 + n % 10 if sign == "+" else value % 10 - n % 10
    carries = not 0 <= units <= 9
    if n <= 9:
        return 2 if carries else 1
    return 4 if carries else 3


@cache
def _choices(value: int, difficulty: int) -> tuple[tuple[str, int], ...]:
    found = []
    for operation in OPERATIONS:
        result = apply(value, operation)
        if result is not None and difficulty_of(value, operation) == difficulty:
            found.append((operation, result))
    return tuple(found)


def draw(rng: random.Random, difficulty: int, steps: int) -> tuple[str, str]:
    """A random (prompt, solution) of one difficulty.

    It has exactly `steps` operations.
    """
    while True:
        value = rng.randint(1, LARGEST_VALUE)
        prompt, lines = ["Compute", str(value)], []
        for _ in range(steps):
            choices = _choices(value, difficulty)
            if not choices:
                break
            operation, result = rng.choice(choices)
            prompt.append(operation)
            lines.append(f"{result} = {value} {operation}")
            value = result
        else:
            lines.append(f"answer {value}")
            return " ".join([*prompt, "?"]), STEP_BREAK.join(lines)


def grade(prompt: str, completion: str) -> bool:
    """Whether the answer is the value of the prompt's chain."""
    _, start, *operations, _ = prompt.split()
    value: int | None = int(start)
    for operation in operations:
        if value is None:
            return False
        value = apply(value, operation)
    return answer_word(completion) == str(value)
