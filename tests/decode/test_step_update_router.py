"""step_update_ fed with what the router wrote: every step of a real trace, discarded ones too."""

from __future__ import annotations

import pytest
import torch
from steer_decode import Policy, Router, Step
from steer_decode.core.boundary import StepBoundary
from steer_decode.core.transcript import Writer
from steer_decode.policies import REDO, Redo
from support.step_problems import BACKENDS
from support.tiny import VOCABULARY, make_pair, prompt_ids

from steer_kernels import RowFlag, StepState, token_classes


class EverySecond(Policy):
    """Takes back every other step that the small model wrote."""

    name = "every-second"

    def __init__(self) -> None:
        self.seen = 0

    def after_step(self, step: Step) -> Writer | Redo:
        if step.writer == "large":
            return "small"
        self.seen += 1
        return REDO if self.seen % 2 == 1 else "small"


@pytest.mark.parametrize(
    "backend", ["reference", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize(("seed", "limit", "max_step"), [(0, 60, 512), (1, 60, 4), (3, 60, 512)])
@pytest.mark.few(3)
def test_follows_a_trace_of_the_router(backend: str, seed: int, limit: int, max_step: int) -> None:
    pair = make_pair("qwen2", seed)
    boundary = StepBoundary(pair.tokenizer, pair.vocab_size, max_tokens=max_step)
    prompt = prompt_ids(seed)
    text = "".join(VOCABULARY[i] for i in prompt)
    output = Router(pair, EverySecond(), boundary).generate(
        text, max_new_tokens=limit, temperature=1.0, seed=seed
    )
    assert any(step.discarded for step in output.trace.steps)
    table = token_classes(VOCABULARY, pair.eos_ids)
    state = StepState.of_prompts([output.trace.prompt_ids], limit)
    push = BACKENDS[backend]
    for step in output.trace.steps:
        for i, (token, value) in enumerate(zip(step.token_ids, step.values, strict=True)):
            arguments = torch.tensor([token]), torch.tensor([value]), table
            push(state, *arguments, max_step=max_step)
            flag = RowFlag(int(state.flag))
            last = i == len(step.token_ids) - 1
            assert bool(flag & RowFlag.STEP_CLOSED) == (last and step.closed)
            assert last or not flag & RowFlag.FINISHED
        assert int(state.score_count) == len(step.values)
        assert float(state.score_sum / state.score_count) == pytest.approx(step.score, rel=1e-12)
        if step.discarded:
            state.length.copy_(state.step_start)
            state.flag.fill_(RowFlag.STEP_CLOSED)
    ended = {"eos": RowFlag.ENDED, "max_new_tokens": RowFlag.FULL}[output.trace.stop_reason]
    assert int(state.flag) & RowFlag.FINISHED == ended
    written = state.transcript[0, len(output.trace.prompt_ids) : int(state.length)]
    assert written.tolist() == output.token_ids
