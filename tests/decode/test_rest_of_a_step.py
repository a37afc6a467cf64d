"""After a mend the large model may write the rest of a step itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steer_decode import (
    BothSides,
    Policy,
    Router,
    SteerError,
    Step,
)
from steer_decode.policies import Mend, Replay
from support.tiny import make_pair, prompt_text

ALL_READ = {"sure": 1.0, "lost": 0.0, "keep": 0.0}


class Leaves(Policy):
    """Mends token 1 of each step, then has the large model write the step from token 3 on."""

    name = "leaves"

    def after_step(self, step: Step) -> Any:
        if step.writer == "small" and len(step.token_ids) > 3:
            return Mend(3, rest=True) if step.others else Mend(1)
        return "small"


@pytest.mark.few(1)
@pytest.mark.parametrize("turns", [1, 4])
def test_the_large_model_may_write_the_rest_of_a_step(turns: int) -> None:
    pair = make_pair("llama", 0)
    out = Router(pair, Leaves(), ahead=turns).generate(prompt_text(3), max_new_tokens=80)
    ids = list(out.trace.prompt_ids)
    seen = 0
    for step in (s for s in out.trace.kept if s.closed):
        if step.writer == "large":
            assert step.writers[:4] == ["small", "large", "small", "large"]
            assert set(step.writers[3:]) == {"large"}
            assert step.inherited == 3
            seen += 1
        for token, writer in zip(step.token_ids, step.writers, strict=True):
            with torch.no_grad():
                logits = pair.model(writer)(torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert token == int(logits[: pair.vocab_size].argmax())
            ids.append(token)
    assert seen
    again = Router(pair, Replay.of([out.trace])).generate(prompt_text(3), max_new_tokens=80)
    closed = len(ids) - len(out.trace.prompt_ids)  # what the limit cuts is not judged, nor mended
    assert again.token_ids[:closed] == out.token_ids[:closed]


def test_after_three_mends_the_large_model_goes_on_itself() -> None:
    out = Router(make_pair("llama", 0), BothSides(**ALL_READ)).generate(
        prompt_text(2), max_new_tokens=70
    )
    left = [s for s in out.trace.kept if s.writer == "large"]
    assert left
    for step in left:
        drafts = [s for s in out.trace.steps if s.index == step.index and s.discarded]
        assert [len(s.others) for s in drafts] == [0, 1, 2, 3]
        assert set(step.writers[step.inherited :]) == {"large"}


def test_what_the_large_model_has_gone_on_with_has_to_stay() -> None:
    class Insists(Policy):
        name = "insists"

        def after_step(self, step: Step) -> Any:
            return Mend(len(step.token_ids) - 1, rest=True)

    with pytest.raises(SteerError, match="took step 0 back twice"):
        Router(make_pair("llama", 0), Insists()).generate(prompt_text(3), max_new_tokens=60)
