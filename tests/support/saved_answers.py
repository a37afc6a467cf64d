"""Answers of a tiny pair as they are saved: routed, alone, and with drafts."""

from __future__ import annotations

import json
from typing import Any

from steer_decode import AlwaysSmall, FirstTokenEntropy, Policy, Router
from steer_decode.core.saved import SavedAnswer, document
from steer_decode.policies import parse_policy
from support.side_door import PAIR


def made_answer(policy: Policy) -> SavedAnswer:
    """What ``policy`` writes to three words."""
    output = Router(PAIR, policy).generate("w1 w2 w3", max_new_tokens=24, chat=False)
    return SavedAnswer(
        prompt="w1 w2 w3",
        models={"small": "a", "large": "b"},
        parameters={"small": 10, "large": 100},
        output=output,
        correct=True,
        options={"seed": 0},
    )


def a_trace() -> Any:
    """The document of a routed answer, with one of either model alone; the large one's drafted."""
    drafted = parse_policy("large:draft=2")
    alone = {"small": made_answer(AlwaysSmall()), "large": made_answer(drafted)}
    assert any(step.drafts for step in alone["large"].output.trace.steps)
    return json.loads(document(made_answer(FirstTokenEntropy(0.5)), alone))
