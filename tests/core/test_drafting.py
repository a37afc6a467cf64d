"""Lossy rules of speculation, on distributions whose verdicts are known."""

from __future__ import annotations

import pytest
import torch
from steer_decode.core.drafting import Drafting

P = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.97, 0.02, 0.01, 0.0], [0.4, 0.35, 0.2, 0.05]]).log()


@pytest.mark.parametrize(
    ("rule", "settings", "drafts", "stays"),
    [
        ("relaxed", {}, [1, 1, 2], [True, False, True]),
        ("relaxed", {"top": 2}, [2, 0, 1], [False, True, True]),
        ("relaxed", {"delta": 0.1}, [1, 0, 1], [False, True, True]),
        # H of the first is 1.14 nats: 0.3 exp(-1.14) = 0.096, so eps = 0.09 decides.
        ("typical", {}, [2, 1, 3], [True, False, False]),
        ("typical", {"eps": 0.04}, [3, 2, 3], [True, False, True]),
        ("cascade", {"alpha": 0.45}, [1, 1, 1], [True, False, True]),
        ("cascade", {"alpha": 0.3}, [1, 0, 2], [False, True, False]),
        ("bild", {"rollback": 2.0}, [2, 1, 3], [True, False, False]),
        ("bild", {"rollback": 0.1}, [0, 0, 1], [True, True, False]),
        ("fly", {"window": 1}, [1, 0, 0], [True, True, True]),
        ("fly", {"window": 1}, [1, 1, 0], [False, False, True]),  # the next differs; it is sure
        ("fly", {"window": 2}, [0, 0, 1], [True, True, False]),  # the window is not known
    ],
)
def test_lossy_rules_as_published(
    rule: str, settings: dict[str, float], drafts: list[int], stays: list[bool]
) -> None:
    drafting = Drafting(3, rule, settings)  # type: ignore[arg-type]
    assert drafting.stays(P, torch.tensor(drafts)).tolist() == stays
