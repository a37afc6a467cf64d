"""What a server cannot do is said before the first token, in one sentence."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from steer_decode import Pair, Router, SteerError
from steer_decode.core.transcript import Writer
from steer_decode.errors import ServerError
from steer_decode.models.vllm_pair import VllmPair
from steer_decode.policies import parse_policy
from support.stub_vllm import StubVllm
from support.tiny import VOCABULARY, make_tokenizer, prompt_ids

Stubs = dict[Writer, StubVllm]


@pytest.fixture
def stub(here: Pair, folders: tuple[Path, Path]) -> Iterator[Any]:
    """A large model of its own to spoil."""
    with StubVllm(here.large, here.tokenizer, "large", str(folders[1])) as server:
        yield server


def fault(small_url: str, large_url: str, **options: Any) -> str:
    """The sentence with which a pair is refused."""
    with pytest.raises(SteerError) as caught:
        VllmPair.connect(small_url, large_url, **options).close()
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.fixture
def small(stubs: Stubs) -> str:
    return stubs["small"].url


def test_a_server_that_is_down(small: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        said = fault(small, url)
        with pytest.raises(ServerError):
            VllmPair.connect(url, small)
    assert said.startswith(f"--large-url {url} cannot be reached (the connection failed: ")
    assert said.endswith("start the server there, or mend the address")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://x/",
        "http://",
        "http:///v1",
        "big",
        "http://x:99999",
        "http://x/?model=1",
    ],
)
def test_what_is_no_address(small: str, url: str) -> None:
    said = fault(url, small)
    assert said.startswith("--small-url must be the address of a server, as in http://")
    assert repr(url) in said


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
@pytest.mark.few(1)
def test_an_address_with_or_without_its_end(stubs: Stubs, tail: str) -> None:
    pair = VllmPair.connect(*(stub.url + tail for stub in stubs.values()))
    assert pair.max_length == 512
    pair.close()


def test_a_password_is_not_shown(small: str, stub: StubVllm) -> None:
    stub.mode = "raw_logprobs"
    said = fault(small, stub.url.replace("://", "://me:secret@"))
    assert said.startswith(f"--large-url {stub.url} gives")


@pytest.mark.slow
def test_a_model_of_several_names(small: str, stub: StubVllm) -> None:
    stub.more = [{"id": "other", "root": stub.root, "max_model_len": 512}]
    VllmPair.connect(small, stub.url).close()
    stub.more = [{"id": "adapter", "root": "/a", "parent": "large", "max_model_len": None}]
    assert "has 'large', 'adapter': name one of them as --large" in fault(small, stub.url)
    VllmPair.connect(small, stub.url, large="large").close()


def test_another_model(small: str, stub: StubVllm) -> None:
    said = fault(small, stub.url, small="small", large="Qwen/Qwen3-8B")
    assert said == (
        f"--large-url {stub.url} has 'large', and --large is 'Qwen/Qwen3-8B': start it with that "
        "model, or name the one that it has"
    )


def test_two_urls_exchanged(small: str, stub: StubVllm, folders: tuple[Path, Path]) -> None:
    said = fault(stub.url, small)
    assert said.startswith(f"--small-url {stub.url} runs 'large', of ")
    assert said.endswith("give the small model first, or exchange the two addresses")
    named = fault(stub.url, small, small=str(folders[0]), large=str(folders[1]))
    assert named.startswith(f"--small-url {stub.url} has 'large', and --small is ")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("raw_logprobs", "gives log-probabilities in place of raw logits"),
        ("processed_logits", "gives logits that temperature and penalties have changed"),
    ],
)
@pytest.mark.few(1)
def test_the_wrong_logits(small: str, stub: StubVllm, mode: str, said: str) -> None:
    stub.mode = mode
    expected = f"--large-url {stub.url} {said}: start it with --logprobs-mode raw_logits"
    assert fault(small, stub.url) == expected


def test_another_vocabulary(small: str, stub: StubVllm, tmp_path: Path) -> None:
    words = [*VOCABULARY[:12], "else", *VOCABULARY[13:]]
    stub.tokenizer = make_tokenizer(words)
    said = fault(small, stub.url)
    assert said.startswith(
        f"--large-url {stub.url} has other tokens than the tokenizer that is used here: id 12 is "
        f"'else' there and {VOCABULARY[12]!r} here"
    )


def test_two_vocabularies(
    small: str, stub: StubVllm, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "large"
    shutil.copytree(folders[1], other)
    words = [*VOCABULARY[:12], "else", *VOCABULARY[13:]]
    stub.tokenizer = make_tokenizer(words)
    stub.tokenizer.save_pretrained(other)
    stub.root = str(other)
    said = fault(small, stub.url)
    assert said.startswith("the tokenizers differ: id 12 is")


def test_templates_that_differ(
    small: str, stub: StubVllm, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    for folder in folders:
        shutil.copytree(folder, tmp_path / folder.name)
        (tmp_path / folder.name / "chat_template.jinja").write_text(folder.name)
    sources = {name: str(tmp_path / name) for name in ("small", "large")}
    with pytest.warns(UserWarning, match="the small model's is used"):
        pair = VllmPair.connect(small, stub.url, **sources)
    assert pair.render([{"role": "user", "content": "w1"}]) == "small"
    pair.close()


@pytest.mark.slow
def test_too_short_a_context(stubs: Stubs, small: str, stub: StubVllm) -> None:
    stub.context = 16
    pair = VllmPair.connect(small, stub.url)
    with pytest.raises(SteerError) as caught:
        Router(pair, parse_policy("large")).stream(prompt_ids(0, 20))
    assert str(caught.value) == (
        "prompt is 20 tokens long, but the context of this pair holds 16, answer included: shorten "
        f"the prompt, or give --large-url {stub.url} a larger --max-model-len than 16"
    )
    assert Router(pair, parse_policy("large")).generate(prompt_ids(0, 10)).trace.stop_reason in (
        "context",
        "eos",
    )
    pair.close()


def test_a_key(small: str, stub: StubVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.key = "secret"
    said = fault(small, stub.url)
    assert said.startswith(f"--large-url {stub.url} wants a key: set VLLM_API_KEY")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    pair = VllmPair.connect(small, stub.url)
    assert (
        Router(pair, parse_policy("large")).generate(prompt_ids(0, 9), max_new_tokens=3).token_ids
    )
    pair.close()


@pytest.mark.slow
def test_a_folder_that_is_not_here(small: str, stub: StubVllm, folders: tuple[Path, Path]) -> None:
    stub.root = "/models/large"
    said = fault(small, stub.url)
    assert said.startswith(
        f"--large-url {stub.url} was started with '/models/large', a folder that is not here: give "
        "its model as --large, "
    )
    VllmPair.connect(small, stub.url, large=str(folders[1])).close()


def test_what_is_no_vllm_server(small: str, served_page: str) -> None:
    said = fault(small, served_page)
    assert said == (
        f"--large-url {served_page} has no /v1/models, as a vLLM server has: give the address of "
        "one"
    )


@pytest.fixture
def served_page(tmp_path: Path) -> Iterator[str]:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("router", "said"),
    [
        ("first-token", "'first-token' reads the signal 'entropy', which needs the gate"),
        ("steer:threshold=0.3:signal=margin", "'steer' reads the signal 'margin' of whole steps"),
        ("both-sides", "'both-sides' has the large model grade every draft"),
        ("spec-reason", "'spec-reason' has the large model grade every draft"),
        ("rsd", "'rsd' has the large model grade every draft"),
        ("speculative", "'speculative' has drafts verified by the large model"),
        ("bild", "'bild' has drafts verified by the large model"),
        ("prompt-lookup", "'prompt-lookup' has drafts verified by the large model"),
        ("random:draft=4", "'random' has drafts verified by the large model"),
        ("percentile", "'percentile' judges the answers of a cohort in rounds"),
        ("steer-cohort", "'steer-cohort' judges the answers of a cohort in rounds"),
    ],
)
def test_routers_that_need_more_are_refused_by_name(
    there: VllmPair, stubs: Stubs, router: str, said: str
) -> None:
    policy = parse_policy(router)
    with pytest.raises(SteerError) as caught:
        Router(there, policy)
    assert said in str(caught.value)
    assert not any(stub.asked for stub in stubs.values())


def test_a_pool_refuses_what_its_rows_cannot_have(there: VllmPair) -> None:
    from steer_decode import Pool

    pool = Pool(Router(there, parse_policy("large")))
    with pytest.raises(SteerError, match="router 'first-token' reads the signal 'entropy'"):
        pool.add([4, 5], policy=parse_policy("first-token"))
    with pytest.raises(SteerError, match="log_probs cannot be had of servers"):
        pool.add([4, 5], log_probs=2)
    assert len(pool) == 0
