"""The large model as a judge of a step: its log-probabilities, and what the reading costs."""

from __future__ import annotations

import pytest
import torch
from steer_decode import Policy, Router, Step
from steer_decode.policies import Redo
from steer_decode.transcript import Writer
from tiny import FAMILIES, make_pair, prompt_text


class Graded(Policy):
    """Takes back a step that the large model finds unlikely."""

    name = "graded"
    grades = True

    def after_step(self, step: Step) -> Writer | Redo:
        if step.writer == "large":
            return "small"
        return "redo" if sum(step.graded) / len(step.graded) < -3.0 else "small"


@pytest.mark.parametrize("turns", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_grades_are_the_large_models_log_probabilities(family: str, turns: int) -> None:
    pair = make_pair(family, 0)
    output = Router(pair, Graded(), turns=turns).generate(prompt_text(2), max_new_tokens=70)
    text = list(output.trace.prompt_ids)
    seen = 0
    for step in output.trace.steps:
        if step.writer == "small" and step.closed:
            ids = text + step.token_ids
            with torch.no_grad():
                logits = pair.large(torch.tensor([ids]), use_cache=False).logits[0]
            logits = logits[len(text) - 1 : -1, : pair.vocab_size].double()
            expected = logits.log_softmax(-1)[range(len(step.token_ids)), step.token_ids]
            assert step.graded == pytest.approx(expected.tolist(), abs=2e-3)
            assert step.likeliest == (logits.argmax(-1) == torch.tensor(step.token_ids)).tolist()
            seen += 1
        else:
            assert step.graded == []
        if not step.discarded:
            text += step.token_ids
    assert seen
    assert text == output.trace.prompt_ids + output.token_ids


def test_grading_reads_each_token_once_and_counts_the_head() -> None:
    pair = make_pair("llama", 0)

    class Accepts(Graded):
        def after_step(self, step: Step) -> Writer:
            return "small"

    output = Router(pair, Accepts()).generate(prompt_text(2), max_new_tokens=70)
    steps = [s for s in output.trace.kept if s.graded]
    assert len(steps) >= 2
    read = len(output.trace.prompt_ids) + sum(len(s.token_ids) for s in steps)
    assert output.cost.large.processed == read
    assert output.cost.large.forwards == len(steps)
    shape, past, flops = pair.shapes["large"], 0, 0
    for i, step in enumerate(steps):
        new = len(step.token_ids) + (len(output.trace.prompt_ids) if i == 0 else 0)
        # The first grade wants the logits before the step as well; later ones are still known.
        flops += shape.flops(new, past, len(step.token_ids) + (i == 0))
        past += new
    assert output.cost.large.flops == flops


def test_grades_in_a_cohort_are_those_of_a_row_alone() -> None:
    router = Router(make_pair("qwen2", 0), Graded())
    prompts = [prompt_text(i, 3 + i) for i in range(4)]
    for prompt, output in zip(prompts, router.cohort(prompts, max_new_tokens=40), strict=True):
        alone = router.generate(prompt, max_new_tokens=40)
        assert output.token_ids == alone.token_ids
        for a, b in zip(output.trace.steps, alone.trace.steps, strict=True):
            assert a.graded == pytest.approx(b.graded, abs=2e-3)
