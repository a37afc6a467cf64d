"""Sessions: a turn reads only what is new, and is answered as if nothing had been cached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from steer_decode import FirstTokenEntropy, Pair, RandomShare, Router, Steer, SteerError
from steer_decode.core.sampling import Sampling
from steer_decode.core.token_text import decode
from steer_decode.core.transcript import WRITERS, Transcript
from steer_decode.decode.session import Session, Turn
from steer_decode.decode.stream import RoutedStream
from steer_decode.policies import AlwaysSmall
from support.chats import CHAT, chat_pair
from support.tiny import make_pair

TRIMS = CHAT.replace("m.content", "m.content | trim")
OWN_MARK = CHAT.replace("<eos>", "w3w3")
DROPS = CHAT.replace("m.content", "m.content.split('w4')[-1]")
QUESTIONS = ["w5 w6w7", "w8w9, w10", "w11 w12."]
LIMIT = 24


class Talk:
    """A conversation with a session, each turn of which is checked against a fresh router."""

    def __init__(self, pair: Pair, policy: Any = None) -> None:
        self.pair = pair
        self.session = Session(Router(pair, policy or RandomShare(0.5)))
        self.messages: list[dict[str, str]] = []

    def begin(self, question: str, limit: int = LIMIT, **options: Any) -> Turn:
        self.messages.append({"role": "user", "content": question})
        return self.session.stream(self.messages, max_new_tokens=limit, **options)

    def end(self, turn: Turn) -> Turn:
        self.messages.append({"role": "assistant", "content": turn.output.text})
        return turn

    def ask(self, question: str, limit: int = LIMIT) -> Turn:
        turn = self.begin(question, limit)
        rendered = self.pair.render(self.messages)
        assert decode(self.pair.tokenizer, turn.trace.prompt_ids) == rendered
        before = self.session.cached()
        turn.finish()
        alone = fresh(self.session.router, turn.trace.prompt_ids, limit)
        assert turn.output.token_ids == alone.output.token_ids
        assert [s.writer for s in turn.trace.steps] == [s.writer for s in alone.trace.steps]
        for writer in WRITERS:
            ours, theirs = (getattr(s.output.cost, writer) for s in (turn, alone))
            if theirs.processed:
                assert ours.processed == theirs.processed - before[writer]
            assert ours.written == theirs.written
        return self.end(turn)


def fresh(router: Router, prompt: list[int], limit: int = LIMIT) -> RoutedStream:
    stream = RoutedStream(router.routing, Transcript(prompt), limit, Sampling(), 0)
    stream.finish()
    return stream


def whole(turn: Turn) -> list[int]:
    return [*turn.trace.prompt_ids, *turn.output.token_ids]


@pytest.mark.spread
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mistral"])
@pytest.mark.parametrize(
    "policy", [RandomShare(0.5), Steer(threshold=8.0), FirstTokenEntropy(1.0)], ids=str
)
@pytest.mark.few(1)
def test_each_turn_reads_only_what_is_new(family: str, policy: Any) -> None:
    talk = Talk(chat_pair(family), policy)
    last: list[int] = []
    for question in QUESTIONS:
        turn = talk.ask(question)
        assert turn.trace.prompt_ids[: len(last)] == last
        last = whole(turn)
    assert max(turn.reused.values()) >= len(last) - len(turn.output.token_ids) - 15


@pytest.mark.slow
def test_ids_that_were_written_stay_ids() -> None:
    others = 0
    for seed in range(6):
        talk = Talk(chat_pair(seed=seed))
        first = talk.ask(QUESTIONS[0], 60)
        second = talk.ask(QUESTIONS[1])
        assert second.trace.prompt_ids[: len(whole(first))] == whole(first)
        others += second.trace.prompt_ids != talk.pair.tokenize(
            decode(talk.pair.tokenizer, second.trace.prompt_ids)
        )
    assert others, "no answer whose text has another split: the test shows nothing"


def ended_talk(template: str) -> tuple[Talk, Turn]:
    """A talk whose first answer ends with EOS after white space and words."""
    for seed in range(200):
        pair = chat_pair(seed=seed, template=template)
        with torch.no_grad():  # so that not many have to be tried
            pair.small.get_output_embeddings().weight[1] *= 3
        talk = Talk(pair, AlwaysSmall())
        turn = talk.begin(QUESTIONS[0], 60)
        turn.finish()
        if turn.trace.stop_reason == "eos" and turn.output.text.strip():
            return talk, talk.end(turn)
    raise AssertionError("no tiny model ended its answer")


@pytest.mark.parametrize("template", [CHAT, TRIMS, OWN_MARK])
def test_the_end_of_an_answer_is_the_template_s(template: str) -> None:
    """EOS is not doubled where the template writes it, nor kept where it writes another mark."""
    talk, first = ended_talk(template)
    second = talk.ask(QUESTIONS[1])
    prompt = first.trace.prompt_ids
    assert second.trace.prompt_ids[: len(prompt)] == prompt
    if template != TRIMS:
        kept = len(whole(first)) - (template == OWN_MARK)
        assert second.trace.prompt_ids[:kept] == whole(first)[:kept]
        assert second.reused["small"] == len(whole(first)) - 1


def test_an_answer_that_was_cut_off_is_closed_by_the_template() -> None:
    talk = Talk(chat_pair())
    first = talk.ask(QUESTIONS[0], 5)
    assert first.trace.stop_reason == "max_new_tokens"
    second = talk.ask(QUESTIONS[1])
    assert second.trace.prompt_ids[:-1][len(whole(first))] == talk.pair.tokenizer.eos_token_id


def test_a_template_that_drops_reasoning_has_the_rest_read_anew() -> None:
    for seed in range(20):
        talk = Talk(chat_pair(seed=seed, template=DROPS))
        first = talk.ask(QUESTIONS[0], 60)
        if "w4" in first.output.text:
            break
    assert "w4" in first.output.text
    second = talk.ask(QUESTIONS[1])
    assert len(second.trace.prompt_ids) < len(whole(first))
    assert 0 < second.reused["small"] <= len(first.trace.prompt_ids)
    talk.ask(QUESTIONS[2])


def test_edited_history_is_read_anew() -> None:
    talk = Talk(chat_pair())
    talk.ask(QUESTIONS[0])
    talk.messages[-1]["content"] = "w20w20"
    talk.ask(QUESTIONS[1])


def test_reset_forgets() -> None:
    talk = Talk(chat_pair())
    first = talk.ask(QUESTIONS[0])
    talk.session.reset()
    assert talk.session.cached() == {"small": 0, "large": 0}
    talk.messages.clear()
    again = talk.ask(QUESTIONS[0])
    assert whole(again) == whole(first)
    assert again.reused == {"small": 0, "large": 0}


def test_the_router_may_be_exchanged_between_turns() -> None:
    talk = Talk(chat_pair(), AlwaysSmall())
    talk.ask(QUESTIONS[0])
    assert talk.session.cached()["large"] == 0
    talk.session.router = Router(talk.pair, RandomShare(0.7))
    talk.ask(QUESTIONS[1])
    assert talk.session.cached()["large"] > 0
    with pytest.raises(SteerError, match="another pair"):
        talk.session.router = Router(chat_pair(), AlwaysSmall())


@pytest.mark.parametrize("events", [0, 1, 7, 12])
@pytest.mark.few(2)
def test_a_stream_cancelled_in_the_middle_of_a_step(events: int) -> None:
    talk = Talk(chat_pair(), Steer(threshold=99.0))
    talk.ask(QUESTIONS[0])
    turn = talk.begin(QUESTIONS[1])
    for _ in range(events):
        next(turn)
    turn.close()
    assert turn.trace.stop_reason == "cancelled"
    talk.end(turn)
    talk.ask(QUESTIONS[2])


def test_the_next_turn_ends_one_that_still_runs() -> None:
    talk = Talk(chat_pair())
    turn = talk.begin(QUESTIONS[0])
    for _ in range(6):
        next(turn)
    told = turn.output.to_dict()
    talk.end(turn)
    talk.ask(QUESTIONS[1])
    assert list(turn) == []
    assert {**turn.output.to_dict(), "trace": 0} == {**told, "trace": 0}
    assert turn.output.cost.small.processed > 0


def breaks(after: int, late: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A forward pass that Ctrl-C falls into: before the cache is written, or behind it."""
    calls = 0

    def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == after and not late:
                raise KeyboardInterrupt
            result = forward(*args, **options)
            if calls == after:
                raise KeyboardInterrupt
            return result

        return wrapped

    return wrap


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("after", [1, 2, 6])
@pytest.mark.few(2)
def test_ctrl_c_within_a_pass(after: int, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(chat_pair())
    talk.ask(QUESTIONS[0])
    turn = talk.begin(QUESTIONS[1])
    with monkeypatch.context() as patch:
        for engine in talk.session._engines.values():
            lane = engine.lane
            patch.setattr(lane, "read", breaks(after, late)(lane.read))
        with pytest.raises(KeyboardInterrupt):
            turn.finish()
    talk.end(turn)
    talk.ask(QUESTIONS[2])


def test_ctrl_c_between_an_id_and_its_writer() -> None:
    talk = Talk(chat_pair())
    talk.end(talk.begin(QUESTIONS[0]))
    talk.session._transcript.ids.append(5)
    talk.messages[-1]["content"] = ""
    talk.ask(QUESTIONS[1])
    transcript = talk.session._transcript
    assert len(transcript.ids) == len(transcript.writers)


def test_a_full_context_is_refused_and_the_session_goes_on() -> None:
    talk = Talk(chat_pair(positions=64))
    first = talk.ask("w5" * 40)
    cached = talk.session.cached()
    with pytest.raises(SteerError, match="context of this pair holds 64"):
        talk.begin("w5" * 40)
    assert talk.session.cached() == cached
    talk.messages.pop()
    talk.messages[:] = talk.messages[:1]
    assert whole(talk.ask("w6")) != whole(first)


def test_a_text_stands_alone() -> None:
    pair = make_pair("llama")
    session = Session(Router(pair, RandomShare(0.5)))
    for question in QUESTIONS:
        turn = session.stream(question, max_new_tokens=LIMIT)
        assert turn.trace.prompt_ids == pair.encode(question)
        turn.finish()
        assert (
            turn.output.token_ids == fresh(session.router, turn.trace.prompt_ids).output.token_ids
        )
