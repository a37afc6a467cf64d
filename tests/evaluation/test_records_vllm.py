"""Records from logs of vLLM's server: what it gives, and nothing that it does not give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import AlwaysLarge, Pair, Router, SteerError
from steer_decode.core.sampling import Sampling
from steer_decode.evaluation.records.file import read_records
from steer_decode.evaluation.records.record import Absent, Records
from steer_decode.evaluation.records.replayed import replay_records
from steer_decode.evaluation.records.tables import markdown
from steer_decode.evaluation.records.views import view
from steer_decode.evaluation.records.vllm import Logged, import_vllm
from support.commands import refused, steer
from support.tiny import make_pair, make_tokenizer, prompt_text, save_pair

Response = dict[str, Any]
N = 3


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair("llama", 0)


def logs_of(pair: Pair, writer: str, ids: list[int]) -> torch.Tensor:
    """[T, V] log-probabilities of what follows each token."""
    with torch.no_grad():
        logits = pair.model(writer)(torch.tensor([ids])).logits[0]  # type: ignore[arg-type]
    return logits[:, : pair.vocab_size].double().log_softmax(-1)


def place(logs: torch.Tensor, token: int, top: int = 8) -> dict[int, float]:
    """What vLLM gives of one place: the likeliest tokens, and the one that stands there."""
    found = {int(i): max(float(logs[i]), -9999.0) for i in logs.topk(top).indices}
    return {**found, token: max(float(logs[token]), -9999.0)}


def completion(pair: Pair, prompt: list[int], ids: list[int], text: str) -> Response:
    """The large model's answer, as of /v1/completions with return_tokens_as_token_ids."""
    logs = logs_of(pair, "large", prompt + ids)[len(prompt) - 1 : -1]
    places = [place(row, token) for row, token in zip(logs, ids, strict=True)]
    return {
        "id": "cmpl-1",
        "model": "large",
        "choices": [
            {
                "index": 0,
                "text": text,
                "finish_reason": "length",
                "stop_reason": None,
                "logprobs": {
                    "text_offset": [0] * len(ids),
                    "tokens": [f"token_id:{i}" for i in ids],
                    "token_logprobs": [p[i] for p, i in zip(places, ids, strict=True)],
                    "top_logprobs": [{f"token_id:{i}": x for i, x in p.items()} for p in places],
                },
            }
        ],
        "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(ids)},
    }


def chat(response: Response) -> Response:
    """The same, as of /v1/chat/completions."""
    choice = response["choices"][0]
    logs = choice["logprobs"]
    content = [
        {
            "token": token,
            "logprob": x,
            "bytes": None,
            "top_logprobs": [{"token": t, "logprob": y, "bytes": None} for t, y in top.items()],
        }
        for token, x, top in zip(
            logs["tokens"], logs["token_logprobs"], logs["top_logprobs"], strict=True
        )
    ]
    message = {"role": "assistant", "content": choice["text"]}
    made = {"index": 0, "message": message, "logprobs": {"content": content}}
    return {**response, "choices": [{**made, "finish_reason": choice["finish_reason"]}]}


def prompt_logprobs(pair: Pair, ids: list[int]) -> Response:
    """What the small model makes of prompt and answer, as of a request with prompt_logprobs."""
    logs = logs_of(pair, "small", ids)
    places: list[dict[str, Any] | None] = [None]
    for row, token in zip(logs[:-1], ids[1:], strict=True):
        places.append(
            {
                str(i): {"logprob": x, "rank": 1, "decoded_token": "w"}
                for i, x in place(row, token).items()
            }
        )
    choice = {"index": 0, "text": "w0", "finish_reason": "length", "prompt_logprobs": places}
    return {"id": "cmpl-2", "choices": [choice], "usage": {"prompt_tokens": len(ids)}}


@pytest.fixture(scope="module")
def answers(pair: Pair) -> list[tuple[list[int], list[int], str]]:
    router = Router(pair, AlwaysLarge())
    outs = [router.generate(prompt_text(i, 5 + i), max_new_tokens=30) for i in range(N)]
    return [(out.trace.prompt_ids, out.token_ids, out.text) for out in outs]


@pytest.fixture
def logged(pair: Pair, answers: Any, tmp_path: Path) -> Callable[..., Logged]:
    def make(
        wrote: Callable[[int, Response], Any] = lambda i, r: r,
        read: Callable[[int, Response], Any] = lambda i, r: r,
        **more: Any,
    ) -> Logged:
        files = tmp_path / "large.jsonl", tmp_path / "small.jsonl"
        made = [
            [json.dumps(wrote(i, completion(pair, *a))) for i, a in enumerate(answers)],
            [
                json.dumps(read(i, prompt_logprobs(pair, p + ids)))
                for i, (p, ids, _) in enumerate(answers)
            ],
        ]
        for file, lines in zip(files, made, strict=True):
            file.write_text("\n".join(lines) + "\n")
        values = {"writer": "large", "sampling": Sampling(), "names": {"small": "s", "large": "l"}}
        return Logged(*files, **{**values, **more})

    return make


def check(pair: Pair, found: Records, answers: Any) -> None:
    """That they are the records that the models themselves make."""
    for record, (prompt, ids, text) in zip(found.answers, answers, strict=True):
        assert (record.ids.tolist(), record.text) == (ids, text)
        assert record.prompt_tokens == len(prompt)
        for writer in ("small", "large"):
            own = view(pair, writer, prompt, ids, Sampling())  # type: ignore[arg-type]
            theirs = record.views[writer]  # type: ignore[index]
            assert theirs.logprob == pytest.approx(own.logprob, abs=1e-4)
            assert theirs.top_ids.tolist() == own.top_ids.tolist()
            assert theirs.top_logprobs == pytest.approx(own.top_logprobs, abs=1e-4)
            assert theirs.margin == pytest.approx(own.margin, abs=1e-4)
            assert (theirs.entropy, theirs.max_logit) == (None, None)


def test_what_the_server_gives_is_what_the_models_give(
    pair: Pair, answers: Any, logged: Any
) -> None:
    found = import_vllm(logged(), pair.tokenizer)
    check(pair, found, answers)
    assert (found.header.source, found.header.pair, found.header.top) == ("vllm", None, 8)
    assert [a.problem for a in found.answers] == ["0", "1", "2"]
    assert {a.stop_reason for a in found.answers} == {"max_new_tokens"}
    steps = [
        [len(s.token_ids) for s in Router(pair, AlwaysLarge())
         .generate(prompt_text(i, 5 + i), max_new_tokens=30).trace.kept]
        for i in range(N)
    ]  # fmt: skip
    assert [list(a.steps) for a in found.answers] == steps


def test_a_chat_gives_the_same(pair: Pair, answers: Any, logged: Any) -> None:
    check(pair, import_vllm(logged(wrote=lambda i, r: chat(r)), pair.tokenizer), answers)


def test_what_is_absent_is_not_invented(pair: Pair, logged: Any, tmp_path: Path) -> None:
    found = import_vllm(logged(), pair.tokenizer)
    for name in ("entropy", "max-logit"):
        with pytest.raises(Absent, match=f"these records have no {name}"):
            found.answers[0].views["small"].value(name)
    with pytest.raises(Absent, match="no max-logit"):
        _ = found.answers[0].views["small"].lse
    again = import_vllm(logged(writer="small"), pair.tokenizer)
    judged = [  # as if of the small model, and judged, so that signals have something to tell
        type(a)(**{**vars(a), "correct": i % 2 == 0}) for i, a in enumerate(again.answers)
    ]
    shown = replay_records(Records(again.header, judged), 100)
    assert shown.signals is not None
    assert {"These records have no entropy, which their source does not give."} <= set(shown.absent)
    assert not any("signal=entropy" in one.name for one in shown.signals.answers)
    assert any("signal=margin" in one.name for one in shown.signals.answers)
    assert "These records have no max-logit" in markdown(shown)


def test_what_is_known_of_an_answer_stands_beside_its_response(pair: Pair, logged: Any) -> None:
    def wrapped(i: int, response: Response) -> Any:
        about = {"domain": "math", "problem": "7", "seed": i, "correct": i != 1, "router": "large"}
        return {"response": response, **about}

    found = import_vllm(logged(wrote=wrapped), pair.tokenizer)
    assert [tuple(a.key) for a in found.answers] == [("large", "math", "7", i) for i in range(N)]
    assert [a.correct for a in found.answers] == [True, False, True]
    assert all(a.alone == "large" for a in found.answers)

    def another(i: int, response: Response) -> Any:
        return {"response": response, "router": "mine", "problem": str(i)}

    found = import_vllm(logged(wrote=another), pair.tokenizer)
    assert all(a.alone is None for a in found.answers)


def in_choice(**change: Any) -> Callable[[int, Response], Response]:
    return lambda i, r: {**r, "choices": [{**r["choices"][0], **change}]}


def logits(i: int, response: Response) -> Response:
    """As with --logprobs-mode raw_logits."""
    choice = response["choices"][0]
    logs = choice["logprobs"]
    up = [{t: x + 20 for t, x in top.items()} for top in logs["top_logprobs"]]
    changed = {
        **logs,
        "top_logprobs": up,
        "token_logprobs": [x + 20 for x in logs["token_logprobs"]],
    }
    return in_choice(logprobs=changed)(i, response)


def words(i: int, response: Response) -> Response:
    """As without return_tokens_as_token_ids."""
    choice = response["choices"][0]
    logs = choice["logprobs"]
    return in_choice(logprobs={**logs, "tokens": ["w1"] * len(logs["tokens"])})(i, response)


def next_one(i: int, response: Response) -> Response:
    """Places of another text: one token too few."""
    choice = response["choices"][0]
    return in_choice(prompt_logprobs=choice["prompt_logprobs"][:-1])(i, response)


def other_tokens(i: int, response: Response) -> Response:
    places = response["choices"][0]["prompt_logprobs"]
    kept = [p and dict(list(p.items())[:1]) for p in places[:-1]] + [{"3": {"logprob": -1.0}}]
    return in_choice(prompt_logprobs=kept)(i, response)


@pytest.mark.parametrize(
    ("wrote", "read", "message"),
    [
        (logits, None, r"are logits, no log-probabilities: start the server with --logprobs-mode"),
        (words, None, "tokens are texts, not ids: ask the server with return_tokens_as_token_ids"),
        (in_choice(logprobs=None), None, "has no logprobs: ask with logprobs=8"),
        (None, in_choice(prompt_logprobs=None), "has no prompt_logprobs: ask with"),
        (None, next_one, r"response 1 of .*small\.jsonl' is not of the text of response 1 of"),
        (None, other_tokens, "is not among the tokens of its place"),
        (lambda i, r: {**r, "choices": []}, None, "choices: must be a list of 1 or more"),
        (lambda i, r: {**r, "choices": r["choices"] * 2}, None, "has 2 choices, one is read"),
        (lambda i, r: {"error": {"code": 500}}, None, "line 1 of .*large.jsonl' is no response of"),
        (lambda i, r: 7, None, "must be an object, got 7"),
        (lambda i, r: {"response": r, "problem": "1"}, None, "a second one of .*after response 1"),
        (lambda i, r: {"response": r, "file": "x"}, None, "has 'file', which does not belong"),
        (in_choice(text="something else"), None, "a text of another tokenizer: its ids stand for"),
    ],
)
def test_what_is_no_log_of_the_two_is_told(
    wrote: Any, read: Any, message: str, pair: Pair, logged: Any
) -> None:
    change = {"wrote": wrote, "read": read}
    made = logged(**{name: value for name, value in change.items() if value is not None})
    with pytest.raises(SteerError, match=message):
        import_vllm(made, pair.tokenizer)


def test_logs_of_different_length_and_of_other_models(pair: Pair, logged: Any) -> None:
    made = logged()
    lines = made.read.read_text().splitlines()
    made.read.write_text("\n".join(lines[:-1]))
    with pytest.raises(SteerError, match=r"has 3 responses and .* 2: give one of either model"):
        import_vllm(made, pair.tokenizer)
    with pytest.raises(SteerError, match=r"token \d+ in the responses is beyond the tokenizer's 5"):
        import_vllm(logged(), make_tokenizer(["<unk>", "<eos>", "\n\n", "w0", "w1"]))


def test_the_command_imports(pair: Pair, logged: Any, tmp_path: Path) -> None:
    small, large = save_pair(tmp_path / "models")
    made, out = logged(), tmp_path / "r.jsonl.gz"
    logs = ("--wrote", made.wrote, "--read", made.read)
    models = ("--small", small, "--large", large)
    args = ("records", "from-vllm", *logs, *models, "--temperature", 0, "--out", out)
    done = steer(*args, "--writer", "large")
    assert done.exit_code == 0, done.output
    assert len(read_records([out]).answers) == N
    assert "is there already" in refused(*args, "--writer", "large")
    out.unlink()
    assert "--writer must be small or large, got 'both'" in refused(*args, "--writer", "both")
    assert steer(*args, "--writer", "large").exit_code == 0
    shown = steer("records", "show", out)
    assert "a pair without a fingerprint, from vllm" in shown.stdout
    assert "Entropy and logits are absent" in shown.stdout
    replayed = steer("eval", "--replay", out)
    assert "| speculative:k=8 |" in replayed.stdout
