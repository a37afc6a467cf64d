"""Who may import whom and through which door, how long a file may be, and whose a name is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import steer_decode

HOUSE = Path(steer_decode.__file__).parent
LONGEST = 300

ABOVE = "decode policies models engines core demo"
ARROWS = {
    "bench": ABOVE,
    "serve": ABOVE.replace(" demo", ""),
    "preflight": ABOVE,
    "fitting": ABOVE,
    "simulation": "evaluation core",
    "evaluation": ABOVE,
    "decode": "policies models engines core",
    "policies": "models core",
    "models": "engines core",
    "engines": "core",
    "core": "",
    "demo": "",
    "util": "",
}  # and all of them may import util and errors

# Folders that are used through their ``__init__`` alone.
DOORS = ("engines.hf.cpu", "engines.hf.gpu")

# What stands in the way of the rules today. An entry that is no longer needed fails the test.
KNOWN: set[str] = set()


def modules(house: Path) -> dict[str, Path]:
    """The files of the package by their dotted names; a folder is its ``__init__``."""
    parts = {path: path.relative_to(house).with_suffix("").parts for path in house.rglob("*.py")}
    return {".".join(p[:-1] if p[-1] == "__init__" else p): path for path, p in parts.items()}


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """What a file imports of the package, wherever in it; for type checkers too."""
    here = name.split(".") if name else []
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named = [alias.name.partition(".") for alias in node.names]
            yield from (inner for first, _, inner in named if first == "steer_decode")
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                base = package[: len(package) - node.level + 1] + base
            elif base[:1] == ["steer_decode"]:
                base = base[1:]
            else:
                continue
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                yield whole if whole in known else ".".join(base)


def circles(graph: dict[str, set[str]]) -> Iterator[str]:
    """The groups of files that reach each other."""
    reach = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph if a in reach[a]}
    yield from (f"circle of {', '.join(sorted(group))}" for group in groups)


def found(house: Path) -> set[str]:
    """All that breaks the rules."""
    known = modules(house)
    graph = {name: set(imported(name, path, known)) for name, path in known.items()}
    wrong = set(circles(graph))
    classes: dict[str, str] = {}
    for name, path in sorted(known.items()):
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                first = classes.setdefault(node.name, name)
                if first != name:
                    wrong.add(f"{name} has a second class {node.name}, beside {first}")
        box = name.partition(".")[0]
        if box in ARROWS:
            below = {box, *ARROWS[box].split(), "util", "errors"}
            wrong |= {f"{name} -> {t}" for t in graph[name] if t.partition(".")[0] not in below}
        for door in DOORS:
            if name != door and not name.startswith(f"{door}."):
                behind = {t for t in graph[name] if t.startswith(f"{door}.")}
                wrong |= {f"{name} -> {t}, past the door {door}" for t in behind}
        if len(text.splitlines()) > LONGEST:
            wrong.add(f"{name} is longer than {LONGEST} lines")
    return wrong


def test_the_house_is_built_as_it_is_drawn() -> None:
    wrong = found(HOUSE)
    assert wrong - KNOWN == set(), "see docs/house.md"
    assert KNOWN - wrong == set(), "no longer needed: take it out of KNOWN"


def test_every_folder_has_its_place() -> None:
    boxes = {path.parent.name for path in HOUSE.glob("*/__init__.py")}
    assert boxes == {*ARROWS, "cli"}


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({"core/a.py": "from ..util.b import x", "util/b.py": ""}, set()),
        ({"core/a.py": "from ..policies import x"}, {"core.a -> policies"}),
        ({"core/a.py": "def f():\n    from ..policies import x"}, {"core.a -> policies"}),
        ({"core/a.py": "import steer_decode.cli.b", "cli/b.py": ""}, {"core.a -> cli.b"}),
        ({"core/a.py": "from steer_decode.cli import b", "cli/b.py": ""}, {"core.a -> cli.b"}),
        ({"core/a.py": "from .. import demo", "demo/__init__.py": ""}, {"core.a -> demo"}),
        ({"util/a.py": "from ..core import b", "core/b.py": ""}, {"util.a -> core.b"}),
        (
            {"cli/a.py": "if TYPE_CHECKING:\n    from .b import x", "cli/b.py": "from . import a"},
            {"circle of cli.a, cli.b"},
        ),
        (
            {"cli/a.py": "class A: ...\nclass _B: ...", "cli/c.py": "class A: ...\nclass _B: ..."},
            {"cli.c has a second class A, beside cli.a"},
        ),
        (
            {
                "engines/hf/a.py": "from .cpu import b\nfrom .cpu.c import x",
                "engines/hf/cpu/__init__.py": "from .b import b as b",
                "engines/hf/cpu/b.py": "from .c import x",
                "engines/hf/cpu/c.py": "",
            },
            {f"engines.hf.a -> engines.hf.cpu.{n}, past the door engines.hf.cpu" for n in "bc"},
        ),
        ({"engines/hf/a.py": "from .cpu import patched", "engines/hf/cpu/__init__.py": ""}, set()),
        ({"cli/a.py": "\n" * 301}, {"cli.a is longer than 300 lines"}),
    ],
)
def test_the_fence_sees(tmp_path: Path, files: dict[str, str], wrong: set[str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert found(tmp_path) == wrong
