"""The public face of steer_decode: one table, and a list of the same names for type checkers."""

from __future__ import annotations

import ast
from pathlib import Path

import steer_decode


def test_type_checkers_know_each_public_name_from_where_it_lives() -> None:
    tree = ast.parse(Path(steer_decode.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    listed = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "a name is handed on as `A as A`"
            listed[alias.name] = node.module
    assert listed == steer_decode._MODULE


def test_each_public_name_is_there() -> None:
    assert steer_decode.__all__ == sorted(steer_decode._MODULE)
    for name in steer_decode.__all__:
        assert getattr(steer_decode, name) is not None
        assert name in dir(steer_decode)
    home = sum(len(names) for names in steer_decode._HOME.values())
    assert home == len(steer_decode.__all__), "a name stands twice in the table"
