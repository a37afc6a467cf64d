"""The first line of a public docstring is one phrase of at most ten words."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = 10

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public(tree: ast.Module) -> Iterator[tuple[str, int, str]]:
    """Name, line and docstring of the module and of all that is public in it."""

    def below(node: Documented, name: str) -> Iterator[tuple[str, int, str]]:
        text = ast.get_docstring(node)
        if text is not None:
            yield name, getattr(node, "lineno", 1), text
        for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else []:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if child.name.startswith("_"):
                    continue
                yield from below(child, f"{name}.{child.name}")

    yield from below(tree, "module")


def fault(docstring: str) -> str:
    """What is wrong with the beginning of a docstring, or nothing."""
    first, *rest = docstring.splitlines()
    if len(first.split()) > WORDS:
        return f"{len(first.split())} words: {first}"
    if not first.endswith((".", "?")):
        return f"goes on in the next line: {first}"
    if rest and rest[0].strip():
        return f"no blank line behind: {first}"
    return ""


def files(root: str) -> list[Path]:
    found = sorted((ROOT / root).rglob("*.py"))
    assert found, f"nothing in {root}"
    return found


@pytest.mark.parametrize("root", ["python/steer_decode", "steer_kernels"])
def test_first_lines_are_short(root: str) -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {name}: {wrong}"
        for path in files(root)
        for name, line, text in public(ast.parse(path.read_text(encoding="utf-8")))
        if (wrong := fault(text))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("docstring", "wrong"),
    [
        ("Read what is pending in the rows.", ""),
        ("Read what is pending.\n\nOf each row.", ""),
        ("One two three four five six seven eight nine ten.", ""),
        ("One two three four five six seven eight nine ten eleven.", "11 words"),
        ("Of each row what the model\nmakes of it.", "goes on"),
        ("Read what is pending.\nOf each row.", "no blank line"),
        ("Raises:\n    ValueError: no row.", "goes on"),
    ],
)
def test_a_bad_first_line_is_seen(docstring: str, wrong: str) -> None:
    assert fault(docstring).startswith(wrong)
    assert bool(fault(docstring)) == bool(wrong)


def test_what_is_public_is_seen() -> None:
    source = '"""M."""\nclass A:\n    """A."""\n    def f(self):\n        """F."""\n'
    source += 'def _private():\n    """P."""\nasync def g():\n    """G."""\n'
    assert [name for name, _, _ in public(ast.parse(source))] == [
        "module", "module.A", "module.A.f", "module.g",
    ]  # fmt: skip
