"""The server on Ray Serve, two small replicas and a large one, on loopback (`make test-ray`)."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import pytest
from steer_decode import Pair, RoutedOutput, Router
from steer_decode.demo import DOMAINS, pair_paths, problems
from steer_decode.policies import parse_policy
from steer_decode.serve.on_ray.build import Settings

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        find_spec("vllm") is None or find_spec("ray") is None, reason="vllm or ray is not installed"
    ),
]

ROUTER = "first-token:threshold=0.5"
NEW = 200
SMALL, LARGE = map(str, pair_paths())


def deploy(port: int, small: int = 2) -> None:
    """What `serve run FILE` does with the configuration, and `serve deploy FILE` once more."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    settings = Settings(
        SMALL,
        LARGE,
        ROUTER,
        (2, 1),
        resources={"num_cpus": 0.1},
        max_new_tokens=NEW,
        engine={
            "dtype": "float32",
            "max_model_len": 512,
            "enforce_eager": True,
            "max_num_seqs": 32,
            "block_size": 32,
            "kv_cache_memory_bytes": 32 << 20,
        },
    )
    document = settings.document("127.0.0.1", port)
    (application,) = document["applications"]
    application["deployments"][0]["num_replicas"] = small
    _get_global_client().deploy_apps(ServeDeploySchema(**document), _blocking=False)
    while not _runs(small):
        time.sleep(0.5)


def _runs(small: int) -> bool:
    """Whether the application runs, with so many replicas of the small model."""
    from ray import serve

    found = serve.status().applications.get("steer")
    # UNHEALTHY it is while one that was killed is being replaced.
    assert found is None or found.status != "DEPLOY_FAILED", found
    if found is None or found.status != "RUNNING":
        return False
    states = found.deployments["Small"].replica_states
    return states.get("RUNNING", 0) == small


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where the pools are served."""
    ray = pytest.importorskip("ray")
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        deploy(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def wanted() -> list[tuple[list[int], RoutedOutput]]:
    """24 problems, and what the router writes with both models in this process."""
    pair = Pair.from_pretrained(SMALL, LARGE, dtype="float32")
    router = Router(pair, parse_policy(ROUTER))
    prompts = [p.prompt for domain in DOMAINS for p in problems(domain, 8, split="test")]
    ids = [pair.tokenizer.encode(prompt) for prompt in prompts]
    return [(each, router.generate(each, max_new_tokens=NEW)) for each in ids]


def asked(url: str, ids: list[int], told: threading.Event | None = None) -> str:
    """The text of one streamed answer."""
    import httpx2

    text = ""
    body = {"model": "steer", "prompt": ids, "max_tokens": NEW, "stream": True, "temperature": 0}
    with httpx2.stream("POST", f"{url}/v1/completions", json=body, timeout=300) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if not line.startswith("data: ") or data == "[DONE]":
                continue
            event = json.loads(data)
            assert "error" not in event, event
            for choice in event["choices"]:
                text += choice["text"]
            if told is not None and text:
                told.set()
    return text


def all_of(url: str, wanted: Any, times: int = 2, told: threading.Event | None = None) -> None:
    """So many times 24 conversations at once, each of which is right."""
    work = [each for _ in range(times) for each in wanted]
    with ThreadPoolExecutor(len(work)) as pool:
        texts = list(pool.map(lambda each: asked(url, each[0], told), work))
    assert [text == out.text for text, (_, out) in zip(texts, work, strict=True)] == [True] * len(
        work
    )


def test_48_streams_are_token_for_token_those_of_the_router(url: str, wanted: Any) -> None:
    begin = time.perf_counter()
    all_of(url, wanted)
    print(f"48 streams in {time.perf_counter() - begin:.1f} s")


def test_a_replica_that_is_killed_under_load_loses_no_conversation(url: str, wanted: Any) -> None:
    import ray

    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(all_of, url, wanted, 2, begun)
        begun.wait(120)
        victim = next(
            actor
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if "#Small#" in actor["name"]
        )
        ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]))
        work.result()
    names = {a["name"] for a in ray.util.list_named_actors(all_namespaces=True)}
    assert victim["name"] not in names


def test_pools_grow_while_streams_run(url: str, wanted: Any) -> None:
    from ray import serve

    begun, over = threading.Event(), threading.Event()

    def load() -> int:
        rounds = 0
        while not over.is_set():
            all_of(url, wanted[:8], 1, begun)
            rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(load)
        begun.wait(120)
        try:
            deploy(int(url.rpartition(":")[2]), small=3)
        finally:
            over.set()
        assert work.result() > 0
    status = serve.status().applications["steer"].deployments["Small"]
    assert sum(status.replica_states.values()) == 3
    all_of(url, wanted, 1)
