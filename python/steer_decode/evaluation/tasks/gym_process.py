"""The process that makes problems of reasoning-gym.

They are the same ones wherever and whenever it runs. Some data sets walk through sets, whose order
follows the seed of Python's hashes, and some draw from the generator that all of a process shares:
whoever starts this fixes the one (PYTHONHASHSEED), and each problem begins with the other anew.
Where problem i depends on how many are asked for, they are made in blocks of one size.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
from typing import Any

BLOCK = 100
_STRIDE = 1_000_003  # between the seeds of blocks, far above those of problems


def data_set(name: str, size: int, settings: dict[str, Any]) -> Any:
    """A data set of reasoning-gym.

    "datasets" of "composite" may be plain data.
    """
    import reasoning_gym
    from reasoning_gym.composite import DatasetSpec

    if name == "composite" and isinstance(settings.get("datasets"), list):
        parts = [
            DatasetSpec(**{"weight": 1, "config": {}, **part}) if isinstance(part, dict) else part
            for part in settings["datasets"]
        ]
        settings = {**settings, "datasets": parts}
    return reasoning_gym.create_dataset(name, size=size, **settings)


def entries(name: str, n: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The first ``n`` problems, the same for every ``n``."""
    if name == "composite" or _first(name, 3, settings) != _first(name, 7, settings):
        found: list[dict[str, Any]] = []
        while len(found) < n:
            seed = settings["seed"] + _STRIDE * (len(found) // BLOCK)
            block = data_set(name, BLOCK, {**settings, "seed": seed})
            found += [_entry(block, i) for i in range(min(BLOCK, n - len(found)))]
        return found
    data = data_set(name, n, settings)
    return [_entry(data, i) for i in range(n)]


def _first(name: str, size: int, settings: dict[str, Any]) -> list[tuple[str, str]]:
    """The first three problems of a data set of that size."""
    data = data_set(name, size, settings)
    return [(e["question"], str(e["answer"])) for e in (_entry(data, i) for i in range(3))]


def _entry(data: Any, index: int) -> dict[str, Any]:
    random.seed(index)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(index)
    return data[index]


def main() -> None:
    """Read a request as JSON, and write a pickle.

    It holds the entries, or what went wrong.
    """
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some data sets print
    asked = json.load(sys.stdin)
    try:
        said: Any = entries(asked["name"], asked["n"], asked["settings"])
    except Exception as error:  # configurations check themselves with assertions
        said = str(error) or type(error).__name__
    with out:
        pickle.dump(said, out)


if __name__ == "__main__":
    main()
