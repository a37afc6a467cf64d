"""Domains of which nothing can be learned."""

from __future__ import annotations

from dataclasses import replace

from steer_decode.evaluation.summary import never_right
from support.made_results import row


def test_a_domain_in_which_no_answer_is_right_is_named() -> None:
    rows = [
        replace(row(router, domain, problem), correct=domain == "b" and (router, problem) == right)
        for router in ("small", "large")
        for domain in ("a", "b")
        for problem in range(3)
        for right in [("small", 2)]
    ]
    assert never_right(rows) == ["a"]
    assert never_right([]) == []
