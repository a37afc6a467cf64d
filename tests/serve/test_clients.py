"""What clients rely on, each with the official one or plain HTTP (reports of other servers)."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx2
import openai
import pytest
from steer_decode import Pair, Router
from steer_decode.demo import problems
from support.served import Served

QUESTION = "Compute 13 -4 +7 -9 +4 -3 ?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


def events(served: Served, path: str = "/v1/chat/completions", **fields: Any) -> list[Any]:
    """The events of a stream, the last of them as the text it is."""
    asked = {"model": "steer", "messages": MESSAGES, "stream": True, **fields}
    text = served.post(path, json=asked).text
    assert text.endswith("\n\n")
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data")]
    return [*map(json.loads, data[:-1]), data[-1]]


def test_a_whole_answer_and_what_it_has_cost(served: Served, client: Any) -> None:
    found = client.chat.completions.create(model="steer", messages=MESSAGES)
    right = served.router.generate(QUESTION, max_new_tokens=128)
    (choice,) = found.choices
    assert choice.message.content == right.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    usage = found.usage
    assert usage.completion_tokens == len(right.token_ids)
    assert usage.prompt_tokens == len(right.trace.prompt_ids)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    told = usage.steer
    assert told["router"] == right.trace.policy
    kept = right.trace.kept
    assert told["tokens"] == {w: sum(s.by(w) for s in kept) for w in ("small", "large")}
    assert told["hand_overs"] == right.cost.hand_overs
    assert told["discarded"] == right.cost.discarded_tokens
    assert told["cost"]["flops_paper"] == right.cost.flops_paper


def test_a_stream_begins_goes_on_and_ends_as_clients_expect(served: Served) -> None:
    first, *middle, last, usage, done = events(served, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(isinstance(c["choices"][0]["delta"]["content"], str) for c in middle)
    assert {c["choices"][0]["finish_reason"] for c in (first, *middle)} == {None}
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] > 0
    assert all("usage" not in chunk for chunk in (first, *middle, last))
    assert len({chunk["id"] for chunk in (first, *middle, last, usage)}) == 1


def test_without_the_option_no_usage_is_sent(served: Served) -> None:
    *chunks, done = events(served)
    assert done == "[DONE]"
    assert all(chunk["choices"] for chunk in chunks)


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"max_tokens": None}, 128),
        ({}, 128),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": 9, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 10**9}, 512),
    ],
)
def test_most_tokens(served: Served, fields: dict[str, Any], most: int) -> None:
    found = served.ask(QUESTION, **fields).json()
    right = served.router.generate(QUESTION, max_new_tokens=most)
    assert found["choices"][0]["message"]["content"] == right.text
    assert found["choices"][0]["finish_reason"] == ("length" if most == 5 else "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context(served: Served, stream: bool) -> None:
    found = served.ask("Compute " + "1 +" * 600 + "1 ?", stream=stream)
    assert found.status_code == 400
    error = found.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "512" in error["message"]
    assert "tokens long" in error["message"]


def test_an_error_after_the_headers_is_an_event_that_the_client_raises(
    demo: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Served(demo, "large") as server:

        def broken(*args: Any, **options: Any) -> Any:
            raise RuntimeError("allocate: planted")  # as torch words it when memory has run out

        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)
        with client.chat.completions.create(model="large", messages=MESSAGES, stream=True) as some:
            monkeypatch.setattr("steer_decode.engines.hf.sampler._draw", broken)
            with pytest.raises(openai.APIError, match="ran out of memory"):
                for _ in some:
                    pass
        monkeypatch.undo()
        assert server.ask(QUESTION).status_code == 200  # a row that fails ends alone


HARMLESS = {
    "user": "u",
    "service_tier": "auto",
    "store": False,
    "parallel_tool_calls": True,
    "metadata": {"a": "b"},
    "tool_choice": "none",
    "tools": [],
    "response_format": {"type": "text"},
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "reasoning_effort": "low",
    "n": None,
    "seed": None,
    "stop": None,
    "stream": None,
    "something_new": {"x": 1},
}


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.few(3)
def test_harmless_fields_are_accepted(served: Served, name: str) -> None:
    assert served.ask(QUESTION, **{name: HARMLESS[name]}).status_code == 200


REFUSED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "response_format": {"type": "json_object"},
    "logit_bias": {"5": 3},
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "modalities": ["audio"],
    "structured_outputs": {"regex": "a"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_done_is_refused_by_its_name(served: Served, name: str) -> None:
    found = served.ask(QUESTION, **{name: REFUSED[name]})
    assert found.status_code == 400
    assert found.json()["error"]["param"] == name
    assert name in found.json()["error"]["message"]


def test_content_in_parts_and_other_roles(served: Served) -> None:
    parts: Any = [{"type": "text", "text": QUESTION}]
    messages = [{"role": "developer", "content": "Be right."}, {"role": "user", "content": parts}]
    found = served.post(json={"model": "steer", "messages": messages}).json()
    assert found["choices"][0]["message"]["content"] == served.router.generate(QUESTION).text
    parts.append({"type": "image_url", "image_url": {"url": "data:,"}})
    refused = served.post(json={"model": "steer", "messages": messages})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "messages[1].content[1].type"


@pytest.mark.parametrize("stream", [False, True])
def test_choices_are_rows_of_their_own(served: Served, client: Any, stream: bool) -> None:
    options: Any = {"model": "steer", "messages": MESSAGES, "temperature": 0.8, "seed": 5, "n": 3}
    texts = {0: "", 1: "", 2: ""}
    if stream:
        for chunk in client.chat.completions.create(**options, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    else:
        for choice in client.chat.completions.create(**options).choices:
            texts[choice.index] = choice.message.content
    for index, text in texts.items():
        alone = served.router.generate(QUESTION, temperature=0.8, seed=5 + index)
        assert text == alone.text


@pytest.mark.parametrize("stop", ["7", "= 16", "\n\n16", ["zzz", "9 ="], "answer", "not there"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.few(3)
def test_stop_texts_wherever_tokens_split_them(served: Served, stop: Any, stream: bool) -> None:
    right = served.router.generate(QUESTION).text
    stops = [stop] if isinstance(stop, str) else stop
    cut = min((at for at in (right.find(s) for s in stops) if at >= 0), default=len(right))
    if stream:
        *chunks, _ = events(served, stop=stop)
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    else:
        text = served.ask(QUESTION, stop=stop).json()["choices"][0]["message"]["content"]
    assert text == right[:cut]


@pytest.mark.parametrize("model", ["small", "large", "steer"])
def test_log_probs_as_the_client_reads_them(served: Served, client: Any, model: str) -> None:
    found = client.chat.completions.create(
        model=model, messages=MESSAGES, logprobs=True, top_logprobs=3
    )
    content = found.choices[0].logprobs.content
    assert len(content) == found.usage.completion_tokens
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.0001
        assert bytes(entry.bytes).decode() == entry.token
        assert sum(top.token == entry.token for top in entry.top_logprobs) <= 1
    assert "".join(entry.token for entry in content) == found.choices[0].message.content
    streamed = [
        entry
        for chunk in client.chat.completions.create(
            model=model, messages=MESSAGES, logprobs=True, top_logprobs=3, stream=True
        )
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content
    ]
    assert [e.token for e in streamed] == [e.token for e in content]


def test_completions_take_texts_and_ids(served: Served, client: Any, demo: Pair) -> None:
    prompts = [problems(domain, 1)[0].prompt for domain in ("math", "planning")]
    found = client.completions.create(model="large", prompt=prompts, max_tokens=40, logprobs=2)
    large = Router(demo, served.server.choices.policy("large", None))
    for prompt, choice in zip(prompts, found.choices, strict=True):
        right = large.generate(prompt, max_new_tokens=40, chat=False)
        assert choice.text == right.text
        assert len(choice.logprobs.tokens) == len(right.token_ids)
        offsets = choice.logprobs.text_offset
        assert offsets == sorted(offsets)
    ids = demo.encode(prompts[0], chat=False)
    text = "".join(
        chunk.choices[0].text
        for chunk in client.completions.create(
            model="large", prompt=ids, max_tokens=40, stream=True
        )
    )
    assert text == found.choices[0].text


def test_models(client: Any) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"small", "large", "steer"}
    assert models["steer"].max_model_len == 512
    assert client.models.retrieve("large").id == "large"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError, match="choose from small, large, steer"):
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)


def test_other_paths_and_methods_answer_in_the_same_form(served: Served) -> None:
    for method, path in [("POST", "/v1/responses"), ("GET", "/nowhere"), ("PUT", "/v1/models")]:
        found = httpx2.request(method, f"{served.url}{path}")
        assert found.status_code in (404, 405)
        assert set(found.json()["error"]) == {"message", "type", "param", "code"}


def test_a_request_names_its_router(served: Served, client: Any, demo: Pair) -> None:
    def ask(**steer: Any) -> Any:
        return client.chat.completions.create(
            model="steer", messages=MESSAGES, extra_body={"steer": steer}
        )

    found = ask(router="random", share=1.0)
    assert found.usage.steer["tokens"]["small"] == 0
    assert ask(router="first-token:threshold=0.3").usage.steer["router"].startswith("first-token")
    assert ask(share=0.3).usage.steer["router"].startswith("both-sides:share=0.3")
    assert ask(router="speculative:k=4").usage.steer["drafted"] > 0
    for steer, word in [
        ({"router": "learned:path=/etc/passwd"}, "takes no"),
        ({"router": "replay"}, "must be one of"),
        ({"router": "steer-cohort"}, "must be one of"),
        ({"router": "os:system"}, "must be one of"),
        ({"router": "first-token", "share": 0.5}, "no setting 'share'"),
        ({"router": "random", "share": 1.5}, "steer.share"),
        ({"wrong": 1}, "steer.wrong"),
    ]:
        with pytest.raises((openai.BadRequestError), match=word):
            ask(**steer)
    with pytest.raises(openai.BadRequestError, match="writes alone"):
        client.chat.completions.create(
            model="small", messages=MESSAGES, extra_body={"steer": {"share": 0.5}}
        )


def test_an_operator_may_let_nobody_choose(demo: Pair) -> None:
    with Served(demo, "random", allowed=[]) as server:
        assert server.ask(QUESTION, steer={"share": 0.5}).status_code == 403
        assert server.ask(QUESTION, steer={"trace": True}).status_code == 200
