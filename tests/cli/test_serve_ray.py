"""`steer serve --ray`: what it writes for Ray's own command, and what it refuses at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from steer_decode import SteerError
from steer_decode.cli import serve_ray
from steer_decode.engines.vllm.flags import Installed
from steer_decode.serve.on_ray.build import PATH, Settings
from support.commands import refused, save, steer

ROUTER = ["--router", "first-token:threshold=0.5"]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray and vLLM are here, on a machine with cards."""
    monkeypatch.setattr(serve_ray, "_check_extra", lambda: None)
    here = Installed("vllm", "0.33.0", False, "v2")
    monkeypatch.setattr(Installed, "find", classmethod(lambda cls: here))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return ["--small", save(folder / "s", 1), "--large", save(folder / "l", 2)]


def test_a_configuration_holds_replicas_and_resources_to_be_changed(
    card: None, models: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "serve.yaml"
    done = steer(
        "serve", "--ray-yaml", file, *models, *ROUTER, "--replicas", "4,2", "--allow", "none"
    )
    assert done.exit_code == 0, done.output
    assert f"serve run {file}" in done.stderr
    found = yaml.safe_load(file.read_text())
    (application,) = found["applications"]
    assert found["http_options"] == {"host": "127.0.0.1", "port": 8000}
    assert application["import_path"] == PATH
    deployments = {d["name"]: d for d in application["deployments"]}
    assert {name: d["num_replicas"] for name, d in deployments.items()} == {
        "Small": 4,
        "Large": 2,
        "Steer": 1,
    }
    assert deployments["Small"]["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 1}
    settings = Settings.read(application["args"])
    assert (settings.small, settings.large) == (models[1], models[3])
    assert settings.replicas == (4, 2)
    assert settings.allow == ()
    assert settings.asked == {"CPU": 6.0, "GPU": 6.0}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--replicas", "2"], "--replicas must be two numbers from 1 on"),
        (["--replicas", "0,1"], "--replicas must be two numbers from 1 on"),
        (["--replicas", "a,1"], "--replicas must be two numbers from 1 on"),
        (["--device", "cpu"], "--device is for models that are loaded here"),
        (["--threads", "2"], "--threads is for models that are loaded here"),
        (["--router", "steer-cohort"], "judges the answers of a cohort"),
        (["--router", "spec-reason"], "grade every draft"),
        (["--router", "steer:threshold=1:signal=entropy"], "signal 'entropy' of whole steps"),
        (["--router", "nothing"], "unknown router 'nothing'"),
        (["--allow", "x"], "--allow 'x' is no router"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    card: None, models: list[str], more: list[str], said: str
) -> None:
    router = [] if "--router" in more else ROUTER
    assert said in refused("serve", "--ray", *models, *router, *more)


def test_servers_and_a_router_by_default_are_refused(card: None, models: list[str]) -> None:
    urls = ["--small-url", "http://a", "--large-url", "http://b"]
    assert "--ray starts engines of its own" in refused("serve", "--ray", *urls, *ROUTER)
    assert "--router has no default with --ray" in refused("serve", "--ray", *models)


def test_without_ray_the_extra_is_named(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'steer-kernels[ray]'" in refused("serve", "--ray", *models, *ROUTER)


GOOD: dict[str, Any] = {"small": "a", "large": "b", "router": "first-token"}


def test_settings_go_through_a_configuration_unchanged() -> None:
    settings = Settings.read(GOOD | {"replicas": [2, 1], "allow": ["small"], "fronts": 2})
    assert Settings.read(yaml.safe_load(yaml.safe_dump(settings.args))) == settings


def test_each_model_may_have_options_of_its_own() -> None:
    settings = Settings.read(
        GOOD
        | {
            "engine": {"max_model_len": 512, "dtype": "float32"},
            "small_engine": {"dtype": "bfloat16"},
            "large_engine": {"tensor_parallel_size": 2},
        }
    )
    assert settings.options("small") == {"max_model_len": 512, "dtype": "bfloat16"}
    assert settings.options("large") == {
        "max_model_len": 512,
        "dtype": "float32",
        "tensor_parallel_size": 2,
        "distributed_executor_backend": "mp",
    }


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"small": "a", "large": "b"}, "args has no 'router'"),
        (GOOD | {"replica": [1, 1]}, "args has 'replica'"),
        (GOOD | {"replicas": [1]}, "replicas must be two whole numbers"),
        (GOOD | {"replicas": [1, 0]}, "replicas must be two whole numbers"),
        (GOOD | {"fronts": 0}, "replicas must be two whole numbers"),
        (GOOD | {"router": "percentile"}, "judges the answers of a cohort"),
    ],
)
def test_a_configuration_that_cannot_be_served(args: dict[str, Any], said: str) -> None:
    with pytest.raises(SteerError, match=said):
        Settings.read(args)


def test_a_cluster_without_room_is_refused_by_what_it_lacks() -> None:
    settings = Settings.read(GOOD | {"replicas": [2, 1], "resources": {"num_cpus": 1}})
    settings.check_room({"CPU": 3.0})
    with pytest.raises(SteerError, match=r"has 2 CPUs, and 3 replicas ask for 3"):
        settings.check_room({"CPU": 2.0})
    cards = Settings.read(GOOD | {"resources": {"num_cpus": 1, "num_gpus": 2}})
    with pytest.raises(SteerError, match=r"has 3 GPUs, and 2 replicas ask for 4"):
        cards.check_room({"CPU": 8.0, "GPU": 3.0})
