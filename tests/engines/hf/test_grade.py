"""The large model as a judge of a step: its log-probabilities, and what the reading costs."""

from __future__ import annotations

import pytest
import torch
from steer_decode import Policy, Router, Step
from steer_decode.core.requests import Graded as Grades
from steer_decode.core.transcript import Transcript, Writer
from steer_decode.engines.hf.cache_support import cache_argument
from steer_decode.engines.hf.grading import ask, grade
from steer_decode.engines.hf.lane import Lane
from steer_decode.policies import Question, Redo
from support.tiny import FAMILIES, make_pair, prompt_ids, prompt_text


class Graded(Policy):
    """Takes back a step that the large model finds unlikely."""

    name = "graded"
    grades = True

    def after_step(self, step: Step) -> Writer | Redo:
        if step.writer == "large":
            return "small"
        return "redo" if sum(step.graded) / len(step.graded) < -3.0 else "small"


@pytest.mark.spread
@pytest.mark.parametrize("turns", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.few(3)
def test_grades_are_the_large_models_log_probabilities(family: str, turns: int) -> None:
    pair = make_pair(family, 0)
    output = Router(pair, Graded(), ahead=turns).generate(prompt_text(2), max_new_tokens=70)
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


def test_drafts_that_wait_are_read_in_one_pass_and_each_row_pays_its_share() -> None:
    router = Router(make_pair("qwen2", 0), Graded())
    prompts = [prompt_text(i, 3 + i) for i in range(4)]
    alone = [router.generate(prompt, max_new_tokens=40) for prompt in prompts]
    ran: list[int] = []  # rows of each pass; a packed one has the tokens of all of them in one
    cache = cache_argument(router.pair.large)
    hook = router.pair.large.register_forward_pre_hook(
        lambda module, args, kwargs: ran.append(kwargs[cache].state.span.size), with_kwargs=True
    )
    try:
        together = router.cohort(prompts, max_new_tokens=40)
    finally:
        hook.remove()
    assert max(ran) > 1
    assert len(ran) < sum(output.cost.large.forwards for output in alone)
    assert sum(ran) == sum(output.cost.large.forwards for output in together)
    for a, b in zip(together, alone, strict=True):
        assert a.cost.large.processed == b.cost.large.processed


@pytest.mark.parametrize("part", [1, 9, 256])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_rows_are_judged_together_as_alone(family: str, part: int) -> None:
    """Prompts of different length unread, drafts of different length; in groups of any size."""
    pair = make_pair(family, 0)
    transcripts = [Transcript(prompt_ids(i, 5 + 4 * i)) for i in range(3)]
    drafts = [3, 6, 2]

    def judge(rows: list[int], lane: Lane) -> dict[int, Grades | None]:
        counts = [drafts[row] for row in rows]
        return grade(lane, rows, counts, pair.vocab_size)

    def lane() -> Lane:
        return Lane(pair.large, pair.shapes["large"], transcripts)

    apart, together = lane(), lane()
    together.part = part
    for _ in range(2):  # the second time the logits before the drafts may be known
        expected = {row: judge([row], apart)[row] for row in range(3)}
        found = judge([0, 1, 2], together)
        for row, mine in found.items():
            assert mine.log_probs == pytest.approx(expected[row].log_probs, abs=1e-4)
            assert mine.likeliest == expected[row].likeliest
            assert len(mine.log_probs) == drafts[row]
            assert together.pending(row) == 0
        for transcript, n in zip(transcripts, drafts, strict=True):
            for token in prompt_ids(9, n):
                transcript.append(token, "small")
    usage = [together.usage(row) for row in range(3)]
    assert all(
        u.processed >= len(t) - n for u, t, n in zip(usage, transcripts, drafts, strict=True)
    )


def test_a_question_is_answered_together_as_alone_and_forgotten() -> None:
    pair = make_pair("qwen2", 0)
    transcripts = [Transcript(prompt_ids(i, 4 + 3 * i)) for i in range(3)]
    question = Question((5, 7, 3), (1, 2, 9))
    lane = Lane(pair.large, pair.shapes["large"], transcripts)
    together = ask(lane, [0, 1, 2], question, pair.vocab_size)
    for row, transcript in enumerate(transcripts):
        ids = torch.tensor([[*transcript.ids, *question.ids]])
        with torch.no_grad():
            logits = pair.large(ids, use_cache=False).logits[0, -1, : pair.vocab_size].double()
        expected = logits.log_softmax(-1)[list(question.choices)].tolist()
        found = together[row]
        assert found is not None
        assert found.log_probs == pytest.approx(expected, abs=1e-4)
        assert lane.read_mark(row) == len(transcript)
        assert lane.usage(row).processed == len(transcript) + len(question.ids)
