"""Speculation: the large model's own answer, whatever the small one proposes."""

from __future__ import annotations

import random

import pytest
from steer_decode import Pair, Pool, RoutedOutput, Router, SteerError, parse_policy
from steer_decode.policies import POLICIES
from support.tiny import FAMILIES, make_close_pair, prompt_ids

PROMPTS = [prompt_ids(i, 4 + 5 * i) for i in range(3)]
SPECULATIONS = ("speculative", "speculative:k=1", "speculative:k=auto", "speculative:k=9:least=0.2")


def ids_of(pair: Pair, router: str, **options: float) -> list[list[int]]:
    made = Router(pair, parse_policy(router))
    return [out.token_ids for out in made.cohort(PROMPTS, max_new_tokens=40, **options)]  # type: ignore[arg-type]


def drafts_of(out: RoutedOutput) -> list[tuple[int, int]]:
    return [draft for step in out.trace.steps for draft in step.drafts]


@pytest.mark.spread(1, ci=3)
@pytest.mark.parametrize("router", [*SPECULATIONS, "prompt-lookup:match=1", "large:draft=3"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.few(3)
def test_greedy_tokens_are_the_large_models(family: str, router: str) -> None:
    pair = make_close_pair(family, 3)
    own = ids_of(pair, "large")
    assert ids_of(pair, router) == own
    alone = Router(pair, parse_policy(router)).generate(PROMPTS[1], max_new_tokens=40)
    assert alone.token_ids == own[1]


@pytest.mark.parametrize("noise", [0.02, 0.1, 5.0])
def test_the_scores_of_steps_are_the_large_models(noise: float) -> None:
    pair = make_close_pair("qwen2", 5, noise)
    plain = Router(pair, parse_policy("large")).generate(PROMPTS[2], max_new_tokens=60)
    drafted = Router(pair, parse_policy("speculative:k=5")).generate(PROMPTS[2], max_new_tokens=60)
    assert [s.token_ids for s in drafted.trace.steps] == [s.token_ids for s in plain.trace.steps]
    for mine, own in zip(drafted.trace.steps, plain.trace.steps, strict=True):
        assert mine.writer == "large"
        assert mine.values == pytest.approx(own.values, abs=1e-3)


SETTINGS = {
    "steer": "steer:threshold=3",
    "steer-cohort": "steer-cohort",
    "percentile": "percentile",
    "first-token": "first-token:threshold=2",
    "both-sides": "both-sides:sure=0.6:keep=-3:lost=0.05",
    "spec-reason": "spec-reason:threshold=-2",
    "rsd": "rsd:threshold=0.1",
    "corea": "corea:threshold=4",
    "random": "random:share=0.5",
    "foreal": "foreal:n=2",
}


@pytest.mark.spread
@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("router", SETTINGS.values())
@pytest.mark.few(4)
def test_drafts_change_no_token_of_any_router(router: str, ahead: int) -> None:
    pair = make_close_pair("llama", 7, 0.3)

    def written(text: str) -> list[RoutedOutput]:
        made = Router(pair, parse_policy(text), ahead=ahead)
        return made.cohort(PROMPTS, max_new_tokens=50)

    plain, drafted = written(router), written(f"{router}:draft=3")
    for a, b in zip(plain, drafted, strict=True):
        assert b.token_ids == a.token_ids
        assert [s.writer for s in b.trace.steps] == [s.writer for s in a.trace.steps]
        assert [s.discarded for s in b.trace.steps] == [s.discarded for s in a.trace.steps]
        assert b.trace.hand_overs == a.trace.hand_overs
        assert b.cost.large_token_share == a.cost.large_token_share
    if any(step.writer == "large" for out in plain for step in out.trace.steps):
        assert any(map(drafts_of, drafted))


def test_every_router_that_can_be_made_by_its_name_takes_drafts() -> None:
    needs_a_file = {"ecotab", "learned", "replay"}
    drafts_itself = {"speculative", "bild", "prompt-lookup"}
    assert {*POLICIES} - needs_a_file - drafts_itself == {*SETTINGS, "small", "large"}
    for name in drafts_itself:
        with pytest.raises(SteerError, match="draft"):
            parse_policy(f"{name}:draft=3")


def test_an_answer_alone_is_that_of_a_cohort() -> None:
    pair = make_close_pair("llama", 2)
    router = Router(pair, parse_policy("speculative:k=auto"))
    together = router.cohort(PROMPTS, max_new_tokens=40, temperature=1.0, seed=[5, 6, 7])
    for seed, prompt, out in zip((5, 6, 7), PROMPTS, together, strict=True):
        alone = router.generate(prompt, max_new_tokens=40, temperature=1.0, seed=seed)
        assert alone.token_ids == out.token_ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_read_is_what_was_drafted(temperature: float) -> None:
    """Accounts: of each draft, what was read by whom, and what of it stayed."""
    pair = make_close_pair("llama", 9, 0.3)
    router = Router(pair, parse_policy("speculative:k=4"))
    out = router.generate(PROMPTS[1], max_new_tokens=60, temperature=temperature)
    drafts = drafts_of(out)
    drafted, stayed = map(sum, zip(*drafts, strict=True))
    small, large = out.cost.small, out.cost.large
    assert 0 < stayed < drafted
    assert (small.written, small.discarded) == (drafted, drafted - stayed)
    assert large.discarded == 0
    assert large.written == len(out.token_ids) - stayed
    # The large model: the prompt, each draft, and the token that it wrote before it.
    assert len(drafts) <= large.forwards <= len(drafts) + 1
    assert large.processed <= len(PROMPTS[1]) + drafted + len(drafts)
    # The small one has read all but the last of each draft, and what the large one wrote.
    assert small.processed <= len(PROMPTS[1]) + drafted + len(drafts)
    assert out.cost.discarded_tokens == drafted - stayed


def test_nothing_is_shown_that_does_not_stay() -> None:
    pair = make_close_pair("llama", 9, 0.5)
    stream = Router(pair, parse_policy("speculative:k=6")).stream(PROMPTS[1], max_new_tokens=60)
    shown = "".join(getattr(event, "text", "") for event in stream)
    assert shown == stream.output.text
    assert sum(stayed for _, stayed in drafts_of(stream.output)) > 0


@pytest.mark.few(1)
@pytest.mark.parametrize("seed", range(3))
def test_readers_may_leave_at_any_event(seed: int) -> None:
    pair = make_close_pair("llama", 9, 0.3)
    router, chance = Router(pair, parse_policy("speculative:k=5")), random.Random(seed)
    expected = {i: router.generate(p, max_new_tokens=30).token_ids for i, p in enumerate(PROMPTS)}
    pool = Pool(router, max_rows=3)
    keys = {pool.add(prompt, max_new_tokens=30): i for i, prompt in enumerate(PROMPTS)}
    gone = chance.choice([*keys])
    leaves = chance.randrange(1, 25)
    for n, (key, event) in enumerate(pool.run()):
        if n == leaves and gone in pool:
            part = pool.cancel(gone).token_ids
            assert part == expected[keys[gone]][: len(part)]
        if output := getattr(event, "output", None):
            assert output.token_ids == expected[keys[key]]


def test_a_reader_who_stops_leaves_no_draft_in_the_text() -> None:
    pair = make_close_pair("llama", 9, 0.3)
    stream = Router(pair, parse_policy("speculative:k=5")).stream(PROMPTS[1], max_new_tokens=30)
    for _ in range(4):
        next(stream)
    stream.close()
    (answer,) = stream._cohort._answers
    assert answer.transcript.ids[len(PROMPTS[1]) :] == stream.output.token_ids


def test_auto_lengthens_what_stays_and_shortens_what_falls() -> None:
    alike, apart = make_close_pair("llama", 9, 0.0), make_close_pair("llama", 9, 9.0)

    def lengths(pair: Pair) -> list[int]:
        out = Router(pair, parse_policy("speculative:k=auto")).generate(
            PROMPTS[0], max_new_tokens=200
        )
        return [drafted for drafted, _ in drafts_of(out)]

    assert lengths(alike)[:3] == [5, 7, 9]
    assert lengths(apart)[:5] == [5, 4, 3, 2, 1]


def test_the_same_model_twice_lets_everything_stay() -> None:
    pair = make_close_pair("llama", 9, 0.0)
    for temperature in (0.0, 1.0):
        out = Router(pair, parse_policy("speculative:k=4")).generate(
            PROMPTS[0], max_new_tokens=61, temperature=temperature
        )
        assert all(drafted == stayed for drafted, stayed in drafts_of(out)[:-1])


@pytest.mark.parametrize(
    ("router", "words"),
    [
        ("speculative:k=0", "k must be 'auto' or at least 1"),
        ("speculative:k=-2", "k must be"),
        ("speculative:k=2.5", "k of router 'speculative'"),
        ("speculative:accept=magic", "accept"),
        ("speculative:eps=0.1", "accept=exact has no setting 'eps'"),
        ("speculative:accept=fly:alpha=0.1", "it takes theta, window"),
        ("speculative:least=1", r"least must lie in \[0, 1\)"),
        ("speculative:accept=bild:rollback=-1", "rollback must be a number from 0 on"),
        ("speculative:accept=bild:rollback=nan", "rollback must be a number from 0 on"),
        ("bild:fallback=2", "fallback must lie"),
        ("prompt-lookup:match=0", "match must be at least 1"),
        ("large:draft=0", "draft of router 'large' must be a number of tokens from 1 on"),
        ("large:draft=x", "draft of router 'large'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(router: str, words: str) -> None:
    with pytest.raises(SteerError, match=words):
        parse_policy(router)


@pytest.mark.parametrize(
    "router",
    [
        "speculative:k=500",
        pytest.param("speculative:k=600:least=0.01", marks=pytest.mark.slow),
    ],
)
def test_a_draft_may_be_longer_than_the_context(router: str) -> None:
    """It is cut to what there is room for: the answer is the same."""
    pair = make_close_pair("llama", 9, 0.3)
    assert ids_of(pair, router) == ids_of(pair, "large")


def test_labels_make_the_router_again() -> None:
    for text in ("speculative:k=auto:accept=fly:window=3", "random:share=0.5:draft=auto"):
        label = parse_policy(text).label
        assert label == text
        assert parse_policy(label).label == label
