"""Two servers of vLLM over the demo pair (`make test-vllm`)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest
from steer_decode import Pair, Policy, RoutedOutput, RoutedStream, Router, SteerError
from steer_decode.core.events import TextDelta
from steer_decode.core.transcript import Writer
from steer_decode.demo import DOMAINS, pair_paths, problems
from steer_decode.errors import ServerError
from steer_decode.models.vllm_pair import VllmPair
from steer_decode.policies import parse_policy
from support.commands import refused, steer
from support.real_vllm import RealServer, same

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]

Servers = dict[Writer, RealServer]
GATE = "steer_decode.engines.vllm.gate_v1:GateV1"
ROUTERS = ["steer:threshold=15.3:large_threshold=21", "random:share=0.4"]
NEW = {"max_new_tokens": 300}
_WANTED: dict[str, list[RoutedOutput]] = {}


@pytest.fixture(scope="module")
def here() -> Pair:
    return Pair.from_pretrained(*pair_paths(), dtype="float32")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    logs = tmp_path_factory.mktemp("logs")
    names: tuple[Writer, Writer] = ("small", "large")
    begun = {
        name: RealServer(folder, name, logs / name, "--logits-processors", GATE).begin()
        for name, folder in zip(names, pair_paths(), strict=True)
    }
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(server) for name, server in begun.items()}


@pytest.fixture(scope="module")
def gated(servers: Servers) -> Iterator[VllmPair]:
    pair = VllmPair.connect(servers["small"].url, servers["large"].url)
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def there(gated: VllmPair) -> VllmPair:
    """The same without use of the gate."""
    sides = {writer: side._replace(handoff=None) for writer, side in gated.sides.items()}
    return replace(gated, sides=sides)


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [p.prompt for domain in DOMAINS for p in problems(domain, 8, split="test")]


@pytest.fixture(params=ROUTERS)
def policy(request: pytest.FixtureRequest) -> Policy:
    return parse_policy(request.param)


@pytest.fixture
def wanted(here: Pair, policy: Policy, prompts: list[str]) -> list[RoutedOutput]:
    if policy.name not in _WANTED:
        _WANTED[policy.name] = [Router(here, policy).generate(p, **NEW) for p in prompts]
    return _WANTED[policy.name]


def test_one_at_a_time(there: VllmPair, policy: Policy, prompts: Any, wanted: Any) -> None:
    found = [Router(there, policy).generate(prompt, **NEW) for prompt in prompts]
    same(found, wanted)
    for one, other in zip(found, wanted, strict=True):
        for writer in ("small", "large"):
            read, least = (getattr(out.cost, writer).processed for out in (one, other))
            assert read >= least  # whole blocks are cached, so some of a block is read again


def test_sixteen_together(there: VllmPair, policy: Policy, prompts: Any, wanted: Any) -> None:
    found = []
    for start in range(0, len(prompts), 16):
        some = prompts[start : start + 16]
        found += Router(there, policy).cohort(some, seed=[0] * len(some), **NEW)
    same(found, wanted)


@pytest.mark.parametrize("at_once", [1, 16])
@pytest.mark.parametrize("router", [ROUTERS[0], "first-token:threshold=0.5"])
def test_with_the_gate(
    gated: VllmPair, here: Pair, prompts: list[str], router: str, at_once: int
) -> None:
    policy = parse_policy(router)
    if router not in _WANTED:
        _WANTED[router] = [Router(here, policy).generate(p, **NEW) for p in prompts]
    found = []
    for start in range(0, len(prompts), at_once):
        some = prompts[start : start + at_once]
        found += Router(gated, policy).cohort(some, seed=[0] * len(some), **NEW)
    # Of a router that looks ahead by its entropy a server tells the largest logits.
    same(found, _WANTED[router], scored=not policy.looks_ahead)


def test_a_router_that_looks_ahead_needs_the_gate(there: VllmPair) -> None:
    with pytest.raises(SteerError, match="needs the gate inside the small model's server"):
        Router(there, parse_policy("first-token"))


@pytest.mark.parametrize(
    ("xargs", "stops", "said"),
    [
        ({"steer_id": "a"}, [1], "steer_handoff"),
        ({"steer_id": "a", "steer_handoff": 1, "steer_after": "2:1"}, [1], "steer_after"),
        ({"steer_id": "a", "steer_handoff": 1}, [3], "stop_token_ids"),
        ({"steer_what": 1}, [1], "steer_what"),
    ],
)
def test_malformed_arguments_of_the_gate_are_the_requests_own_error(
    servers: Servers, xargs: dict[str, Any], stops: list[int], said: str
) -> None:
    body = {"model": "small", "prompt": [5, 6], "max_tokens": 2, "stop_token_ids": stops}
    url = servers["small"].url
    answer = httpx2.post(f"{url}/v1/completions", json={**body, "vllm_xargs": xargs}, timeout=60)
    assert answer.status_code == 400
    assert said in answer.text
    assert httpx2.post(f"{url}/v1/completions", json=body, timeout=60).status_code == 200


def test_a_step_that_ends_is_a_call(there: VllmPair, here: Pair, prompts: Any) -> None:
    """Each call ends by a stop token of its own, so that none is broken off."""
    carrier: Any = there.sides["small"].carrier
    sent, send = [], carrier.send

    def note(call: Any) -> None:
        sent.append(call)
        send(call)

    carrier.send = note
    try:
        out = Router(there, parse_policy("small")).generate(prompts[0], **NEW)
    finally:
        del carrier.send
    assert len(sent) == len(out.trace.steps)
    assert all(call.ended and call.cached is not None for call in sent)


def test_other_servers_are_refused(servers: Servers, tmp_path: Path) -> None:
    small, large = (servers[w].url for w in ("small", "large"))
    with pytest.raises(SteerError, match="exchange the two addresses"):
        VllmPair.connect(large, small)
    with pytest.raises(SteerError, match=r"--small is 'Qwen/Qwen3-0.6B': start it with that model"):
        VllmPair.connect(small, large, small="Qwen/Qwen3-0.6B")
    command = ["generate", "Compute 3 +4 ?", "--small-url", small, "--large-url", f"{large}/x"]
    assert "has no /v1/models" in refused(*command, "--router", "random")


def test_a_worker_that_is_killed_loses_nothing(
    servers: Servers, here: Pair, prompts: Any, tmp_path: Path
) -> None:
    """The large model's server dies in the middle of a step, is started again, and it goes on."""
    policy = parse_policy("random:share=0.6")
    expected = Router(here, policy).generate(prompts[9], **NEW)
    folder = pair_paths()[1]
    trace = tmp_path / "t.json"
    with RealServer(folder, "large", tmp_path / "log").begin() as doomed:
        pair = VllmPair.connect(servers["small"].url, doomed.url)
        stream = Router(pair, policy).stream(prompts[9], **NEW)
        _until_the_large_model_writes(stream)
        doomed.kill_worker()
        with pytest.raises(ServerError) as caught:
            stream.finish()
        doomed.wait()
        assert "the large model 'large' at http" in str(caught.value)
        pair.close()
        assert stream.trace.stop_reason == "server"
        url, port = doomed.url, doomed.port
        args = ["--small-url", servers["small"].url, "--large-url", url, "--router"]
        args += ["random:share=0.6", "--max-new-tokens", "300", "--trace", trace, "--json"]
        said = refused("generate", prompts[9], *args)  # it is gone
        assert f"--large-url {url} cannot be reached" in said
    _save(stream.output, prompts[9], trace)
    with RealServer(folder, "large", tmp_path / "log", port=port).begin():
        result = steer("generate", *args[:8], "--resume", trace, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["token_ids"] == expected.token_ids
    assert found["trace"]["stop_reason"] == expected.trace.stop_reason


def _until_the_large_model_writes(stream: RoutedStream) -> None:
    for event in stream:
        if isinstance(event, TextDelta) and event.writer == "large":
            return


def _save(output: RoutedOutput, prompt: str, file: Path) -> None:
    """As ``steer generate --trace`` has it."""
    from steer_decode.core.saved import SavedAnswer, document
    from steer_decode.core.shape import ModelShape

    pair = Pair.from_pretrained(*pair_paths(), dtype="float32")
    sizes = {w: ModelShape.of(pair.model(w)).parameters for w in ("small", "large")}
    options = {"max_new_tokens": 300, "temperature": 0.0, "seed": 0}
    names = {"small": "small", "large": "large"}
    file.write_text(document(SavedAnswer(prompt, names, sizes, output, options=options)))
