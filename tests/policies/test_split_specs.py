"""Several routers in one text: commas between them, and commas in their files."""

from __future__ import annotations

import pytest
from steer_decode.policies import split_specs


@pytest.mark.parametrize(
    ("text", "routers"),
    [
        ("small, large,small", ["small", "large"]),
        ("", []),
        (" , ", []),
        ("random:share=0.5,large", ["random:share=0.5", "large"]),
        ("steer:calibration=/a,b/c.json,large", ["steer:calibration=/a,b/c.json", "large"]),
        ("large,learned:path=a, b,c.json,small", ["large", "learned:path=a, b,c.json", "small"]),
        ("learned:path=a,b.json:cut=0.5", ["learned:path=a", "b.json:cut=0.5"]),
        ("first-token:signal=entropy,mine:Router", ["first-token:signal=entropy", "mine:Router"]),
        ("mine:Router:file=a,small", ["mine:Router:file=a", "small"]),
        ("random,smal", ["random", "smal"]),  # told by the one that is asked for it
    ],
)
def test_a_comma_in_the_name_of_a_file_ends_no_router(text: str, routers: list[str]) -> None:
    assert split_specs(text) == routers
