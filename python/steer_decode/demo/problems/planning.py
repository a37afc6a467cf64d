"""Planning: a way on a grid around walls.

The grid is 5 by 5, and the prompt lists the walls.

    Route a1 to c2 walls b1 ?
    a2 = a1 south [2] / b2 = a2 east [1] / c2 = b2 east [0] / answer c2

A cell is a column letter and a row number, and one token. A step names the next cell first,
then where it comes from, the move, and in brackets how many moves remain. The reference
solution is a shortest way, found by breadth-first search, ties broken by a fixed order of the
moves; any way that keeps off the walls and ends at the goal is right. The difficulty picks the
number of walls, and at 5 they force a detour.
"""

from __future__ import annotations

import random
from collections import deque

from .problem import STEP_BREAK

DOMAIN = "planning"
STEPS = (4, 8)  # fewest and most moves of a problem in any split
SIZE = 5

_WALLS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}
_DETOUR_FROM = 5  # the first difficulty whose shortest way is longer than the way without walls

CELLS = tuple(f"{column}{row}" for row in range(1, SIZE + 1) for column in "abcde"[:SIZE])
MOVES = ("east", "south", "west", "north")
MOST_MOVES = SIZE * SIZE - 1
REMAINING = tuple(f"[{n}]" for n in range(16))

_SHIFT = {"east": (1, 0), "south": (0, 1), "west": (-1, 0), "north": (0, -1)}


def _make_neighbours() -> tuple[tuple[tuple[str, int], ...], ...]:
    table = []
    for cell in range(SIZE * SIZE):
        x, y = cell % SIZE, cell // SIZE
        row = []
        for move in MOVES:
            nx, ny = x + _SHIFT[move][0], y + _SHIFT[move][1]
            if 0 <= nx < SIZE and 0 <= ny < SIZE:
                row.append((move, ny * SIZE + nx))
        table.append(tuple(row))
    return tuple(table)


NEIGHBOURS = _make_neighbours()  # NEIGHBOURS[cell] = ((move, next cell), ...), cells as 0..24


def distances_to(goal: int, walls: frozenset[int] | set[int]) -> list[int]:
    """Moves from every cell to `goal`.

    Cells are 0..24; -1 where there is no way.
    """
    distance = [-1] * (SIZE * SIZE)
    distance[goal] = 0
    queue = deque([goal])
    while queue:
        cell = queue.popleft()
        for _, following in NEIGHBOURS[cell]:
            if distance[following] < 0 and following not in walls:
                distance[following] = distance[cell] + 1
                queue.append(following)
    return distance


def _direct(start: int, goal: int) -> int:
    return abs(start % SIZE - goal % SIZE) + abs(start // SIZE - goal // SIZE)


def draw(rng: random.Random, difficulty: int, steps: int) -> tuple[str, str]:
    """A random (prompt, solution) of exactly `steps` moves.

    The shortest way has as many.
    """
    detour = difficulty >= _DETOUR_FROM and steps >= 4  # fewer moves leave no room for one
    while True:
        goal, *walls = rng.sample(range(SIZE * SIZE), _WALLS[difficulty] + 1)
        distance = distances_to(goal, set(walls))
        starts = [
            cell
            for cell in range(SIZE * SIZE)
            if distance[cell] == steps and (_direct(cell, goal) < steps) == detour
        ]
        if starts:
            break
    cell = rng.choice(starts)
    prompt = ["Route", CELLS[cell], "to", CELLS[goal], "walls", *(CELLS[w] for w in sorted(walls))]
    lines = []
    while cell != goal:
        move, following = next(
            (move, n) for move, n in NEIGHBOURS[cell] if distance[n] == distance[cell] - 1
        )
        remaining = REMAINING[distance[following]]
        lines.append(f"{CELLS[following]} = {CELLS[cell]} {move} {remaining}")
        cell = following
    lines.append(f"answer {CELLS[goal]}")
    return " ".join([*prompt, "?"]), STEP_BREAK.join(lines)


def grade(prompt: str, completion: str) -> bool:
    """Whether the steps lead to the goal past all walls.

    A step is right when it starts where the last one ended, its move leads to the cell that it
    names, and that cell is free; the number in brackets is not looked at.
    """
    words = prompt.split()
    cell, goal, walls = words[1], words[3], set(words[5:-1])
    for line in completion.strip().split(STEP_BREAK):
        step = line.split()
        if step[:1] == ["answer"]:
            return cell == goal and step[1:2] == [goal]
        if len(step) < 4 or step[1] != "=" or step[2] != cell:
            return False
        cell, move = step[0], step[3]
        at = CELLS.index(step[2])
        if cell in walls or not any(
            move == name and cell == CELLS[n] for name, n in NEIGHBOURS[at]
        ):
            return False
    return False
