"""`make gpu-check`: its refusal without a card, and its order of work with one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from steer_decode.bench.measure import measure
from steer_decode.bench.plan import Case

GPU_CHECK = Path(__file__).parent.parent / "benchmarks" / "gpu_check.py"

pytestmark = pytest.mark.skipif(not GPU_CHECK.exists(), reason="benchmarks/ is not here")


@pytest.fixture
def gpu_check() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_check", GPU_CHECK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestGpuCheck:
    @pytest.mark.parametrize("args", [[], ["--card"]])
    def test_without_a_card_one_sentence(self, tmp_path: Path, args: list[str]) -> None:
        result = subprocess.run(
            [sys.executable, str(GPU_CHECK), *args],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": str(tmp_path)},
        )
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr == (
            "gpu-check: needs an NVIDIA card, and this machine has no nvidia-smi.\n"
        )

    def test_a_driver_without_a_card(self, tmp_path: Path) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\nexit 9\n")
        tool.chmod(0o755)
        command = [sys.executable, str(GPU_CHECK)]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)}
        )
        assert result.returncode == 1
        assert result.stderr == "gpu-check: needs an NVIDIA card, and nvidia-smi finds none.\n"

    @pytest.mark.parametrize("tests_pass", [True, False])
    def test_builds_tests_measures_and_writes(
        self,
        gpu_check: Any,
        tests_pass: bool,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        steps = []
        case = Case("kv_append_", "bfloat16", 2, None, None, 1)
        rows = [row.as_dict() for row in measure(case, 0.01)]

        def run(command: list[str], **environment: str) -> tuple[int, str]:
            steps.append(command[1:3])
            if "-c" in command:
                return 0, '[true, {"cuda": "13.0"}]\n'
            if "pytest" in command:
                return (0, "== 9 passed ==\n") if tests_pass else (1, "== 1 failed, 8 passed ==\n")
            if "bench" in command:
                Path(command[command.index("--json") + 1]).write_text(json.dumps(rows))
            return 0, ""

        monkeypatch.setattr(gpu_check, "run", run)
        monkeypatch.setattr(gpu_check, "card", lambda: "NVIDIA H100 80GB HBM3")
        monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
        monkeypatch.setattr(gpu_check, "RESULTS", tmp_path)
        monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
        with pytest.raises(SystemExit) as end:
            gpu_check.main()
        assert end.value.code == (0 if tests_pass else 1)
        assert [step[0] for step in steps] == ["setup.py", "-c", "-m", "-m"]
        (table,) = tmp_path.glob("nvidia-h100-80gb-hbm3-20*.md")
        text = table.read_text()
        assert text.startswith("# NVIDIA H100 80GB HBM3\n")
        assert ("Tests: 9 passed." if tests_pass else "Tests: 1 failed, 8 passed.") in text
        assert json.loads(table.with_suffix(".json").read_text()) == rows
        assert "index_put_" in text
