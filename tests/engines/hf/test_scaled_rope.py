"""RoPE whose frequencies depend on the length of the text: as ``generate``, wherever it is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from steer_decode import AlwaysLarge, AlwaysSmall, Pair, Policy, RandomShare, Router, Session, Step
from steer_decode.core.transcript import Writer
from steer_decode.engines.hf.probe import probe
from steer_decode.engines.hf.rope import context_length
from support import families
from support.families import (
    causal,
    longrope,
    needs_transformers_5,
    pair_of,
    rope_config,
    stretched,
)
from support.tiny import prompt_ids, prompt_text
from transformers import DynamicCache, PreTrainedModel

BOUNDARY = 40
TOKENS = 30
MAKE: dict[str, Callable[[int], PreTrainedModel]] = {
    "phi3": lambda seed: longrope(seed, BOUNDARY),
    "qwen2, longrope": lambda seed: longrope(seed, BOUNDARY, "qwen2"),
    "dynamic": lambda seed: stretched(seed, "dynamic", BOUNDARY),
}
PAIRS: dict[str, Pair] = {}


@pytest.fixture(params=MAKE)
def pair(request: pytest.FixtureRequest) -> Pair:
    if request.param not in PAIRS:
        PAIRS[request.param] = pair_of(MAKE[request.param](0), MAKE[request.param](1))
    return PAIRS[request.param]


def greedy(model: PreTrainedModel, ids: list[int], tokens: int) -> list[int]:
    """What ``generate`` writes, after a short text: dynamic scaling remembers a longer one."""
    with torch.no_grad():
        model(torch.tensor([[2]]))
    return families.greedy(model, ids, tokens)


def given(pair: Pair, prompts: list[list[int]]) -> None:
    rows = iter(prompts)
    pair.__dict__["encode"] = lambda prompt, *more: next(rows)


@pytest.fixture(autouse=True)
def as_it_was() -> Any:
    yield
    for pair in PAIRS.values():
        pair.__dict__.pop("encode", None)


LENGTHS = [5, 39, 40, 41, 60]


@pytest.mark.spread
@pytest.mark.parametrize("policy", [AlwaysSmall(), AlwaysLarge()], ids=["small", "large"])
@needs_transformers_5
@pytest.mark.few(1)
def test_one_model_writes_what_its_generate_writes(pair: Pair, policy: Policy) -> None:
    model = pair.small if policy.name == "small" else pair.large
    prompts = [prompt_ids(i, n) for i, n in enumerate(LENGTHS)]
    expected = [greedy(model, ids, TOKENS) for ids in prompts]
    for ids, tokens in zip(prompts, expected, strict=True):
        given(pair, [ids])
        output = Router(pair, policy).generate("as given", max_new_tokens=TOKENS)
        assert output.token_ids == tokens
    given(pair, prompts)  # one row's length is no other's
    outputs = Router(pair, policy).cohort(["as given"] * len(prompts), max_new_tokens=TOKENS)
    assert [output.token_ids for output in outputs] == expected
    assert [greedy(model, ids, TOKENS) for ids in prompts] == expected


@needs_transformers_5
def test_a_long_prompt_may_be_read_in_parts(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer_decode.engines.hf.passes.PART", (32, 32))
    monkeypatch.setattr("steer_decode.engines.hf.lane.SHORT", 16)
    ids = prompt_ids(3, 110)
    expected = greedy(pair.small, ids, 9)
    given(pair, [ids])
    assert Router(pair, AlwaysSmall()).generate("x", max_new_tokens=9).token_ids == expected


class Redo(Policy):
    """Takes back one of ``share`` steps of the small model, by its ids."""

    def __init__(self, share: int) -> None:
        self.share = share

    def after_step(self, step: Step) -> Any:
        own = step.writer == "small"
        return "redo" if own and sum(step.token_ids) % self.share == 0 else "small"


def replayed(pair: Pair, prompt: list[int], writers: list[Writer], ids: list[int]) -> list[int]:
    """What the writer of each token writes there, if the tokens before it were its own.

    Each model reads the prompt in one pass and every token in a pass of its own, as ``generate``
    does, which also says when it begins anew.
    """
    found = []
    for writer in ("small", "large"):
        model = pair.model(writer)  # type: ignore[arg-type]
        greedy(model, [2], 1)
        cache: Any = None
        for n in range(len(prompt), len(prompt) + len(ids)):
            text = torch.tensor([[*prompt, *ids][:n]])
            boundary = getattr(model.config, "original_max_position_embeddings", n)
            if cache is None or n == boundary + 1:
                cache = DynamicCache()
            seen = cache.get_seq_length()
            with torch.no_grad():
                out = model(
                    text[:, seen:],
                    position_ids=torch.arange(seen, n)[None],
                    attention_mask=torch.ones_like(text),
                    past_key_values=cache,
                )
            if writers[n - len(prompt)] == writer:
                found.append((n, int(out.logits[0, -1].argmax())))
    return [token for _, token in sorted(found)]


def written_by_both(
    pair: Pair, length: int, kind: str
) -> tuple[Router, list[int], list[Writer], list[int]]:
    """A router, a prompt, who wrote each token, and the tokens: the first where both write."""
    for seed in range(2, 12):
        prompt = prompt_ids(seed, length)
        policy: Policy = Redo(seed) if kind == "redo" else RandomShare(0.5)
        given(pair, [prompt] * 2)
        output = Router(pair, policy).generate("as given", max_new_tokens=TOKENS, seed=1)
        writers: list[Writer] = [s.writer for s in output.trace.kept for _ in s.token_ids]
        if set(writers) == {"small", "large"}:
            return Router(pair, policy, ahead=6), prompt, writers, output.token_ids
    raise AssertionError("no seed lets both models write")


@pytest.mark.spread(2)
@pytest.mark.parametrize("kind", ["redo", "random"])
@pytest.mark.parametrize("length", [12, 36, 50])
@needs_transformers_5
@pytest.mark.few(3)
def test_each_token_is_what_its_writer_alone_would_write(
    pair: Pair, kind: str, length: int
) -> None:
    ahead, prompt, writers, ids = written_by_both(pair, length, kind)
    assert replayed(pair, prompt, writers, ids) == ids
    assert ahead.generate("as given", max_new_tokens=TOKENS, seed=1).token_ids == ids


@needs_transformers_5
def test_a_session_grows_over_the_boundary_and_comes_back(pair: Pair) -> None:
    session = Session(Router(pair, AlwaysSmall()))
    for length in (20, 34, 60, 20, 60):
        text = prompt_text(7, length)
        expected = greedy(pair.small, pair.encode(text, chat=False), 10)
        assert session.stream(text, max_new_tokens=10).finish().token_ids == expected


@needs_transformers_5
def test_a_text_ends_at_the_scaled_length() -> None:
    for kind in ("yarn", "linear", "dynamic"):
        pair = pair_of(stretched(0, kind, 64), stretched(1, kind, 64))
        assert pair.max_length == 256
        ids = prompt_ids(1, 99)
        expected = greedy(pair.small, ids, 12)
        pair.__dict__["encode"] = lambda prompt, *more, ids=ids: ids
        assert Router(pair, AlwaysSmall()).generate("x", max_new_tokens=12).token_ids == expected


class Config:
    def __init__(self, length: int | None, **more: Any) -> None:
        self.max_position_embeddings = length
        vars(self).update(more)


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (Config(32768, rope_scaling=YARN), 131072),  # the recipe of Qwen 2.5
        (Config(131072, rope_scaling=YARN), 131072),
        (Config(32768, rope_parameters={**YARN, "rope_type": "yarn"}), 131072),
        (Config(4096, rope_scaling={"type": "linear", "factor": 2}), 8192),
        (Config(2048, rope_scaling={"rope_type": "dynamic", "factor": 2.5}), 5120),
        (Config(131072, rope_parameters=LLAMA3), 131072),  # Llama 3.2, not 32 x 8192
        (Config(131072, rope_scaling={"type": "longrope", "factor": 32.0}), 131072),
        (Config(1024, rope_scaling=None), 1024),
        (Config(1024), 1024),
        (Config(None), None),
        # Gemma 3: of two kinds of layers one is scaled; transformers 4 says so in another way.
        (
            Config(
                131072,
                rope_parameters={
                    "sliding_attention": {"rope_type": "default"},
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                },
            ),
            131072,
        ),
        (
            Config(
                131072,
                rope_scaling={"rope_type": "linear", "factor": 8.0},
                rope_local_base_freq=1e4,
            ),
            131072,
        ),
    ],
)
def test_the_context_is_the_scaled_length(config: Any, length: int | None) -> None:
    assert context_length(config) == length


def test_frequencies_that_cannot_be_understood_end_the_context() -> None:
    class Odd(torch.nn.Module):
        """Its frequencies shrink with the longest position at once, whatever its config says."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor, position_ids: torch.Tensor, **more: Any) -> Any:
            return self.inner(x, position_ids * (1 + position_ids.max() // 100), **more)

    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    models = []
    for seed in (0, 1):
        model = causal("qwen2", seed, **rope_config(rope), max_position_embeddings=64)
        model.model.rotary_emb = Odd(model.model.rotary_emb)
        models.append(model)
    assert pair_of(*models).max_length == 64
    assert probe(models[0]).notes == ("is served up to 64 tokens",)
