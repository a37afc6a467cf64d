"""The stages of `make gpu-check` on a CPU: what they find, write, and do where something fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode.bench.kernels.plan import OPS, SAMPLINGS
from support.gpu_path import script

import steer_kernels
from steer_kernels.triton.heuristics import NUCLEUS

from gpu import ahead, measure, profiled, sanitized, smoke, subjects  # isort: skip
from gpu.stages import TOOLS, WRONG  # isort: skip

NAMES = ["logit_stats", *(f"sample_logits {s}" for s in SAMPLINGS)]
NAMES += ["accept_drafts", "kv_append_", "step_update_"]
MEASURED = [name for name in NAMES if name.split()[0] in OPS]  # those of `steer bench kernels`


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(smoke.SIZES, "cpu", ((2,), 300, 20, 2))
    monkeypatch.setitem(profiled.SIZES, "cpu", (2, 300))
    monkeypatch.setattr(subjects, "LIKELY", 1e-3)


@pytest.fixture
def rehearse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a stage's main on the CPU; returns its status and what it has written."""

    def run(module: Any, *options: str) -> tuple[int, Any]:
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [module.__name__, "--out", str(out), *options])
        if "--under" not in options:
            sys.argv += ["--device", "cpu"]
        status = module.main()
        written = json.loads(out.read_text())
        assert written["rehearsal"]
        assert "no figure here is of a GPU" in written["note"]
        assert written["versions"]["torch"] == torch.__version__
        return status, written

    return run


class TestSmoke:
    def test_right_results(self, rehearse: Any, capsys: pytest.CaptureFixture[str]) -> None:
        status, written = rehearse(smoke)
        assert status == 0
        assert [(c["op"], c["batch"]) for c in written["checks"]] == [(name, 2) for name in NAMES]
        assert not any("wrong" in c or "failed" in c for c in written["checks"])
        assert capsys.readouterr().out.splitlines()[-1] == "8 checks, all right"

    def test_a_wrong_result_is_named_and_decisive(
        self, rehearse: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def off(logits: torch.Tensor, k: int) -> Any:
            stats = steer_kernels.logit_stats(logits, k)
            return stats._replace(entropy=stats.entropy + 1e-4)

        monkeypatch.setattr(subjects, "logit_stats", off)
        status, written = rehearse(smoke)
        assert status == WRONG
        assert written["checks"][0]["wrong"].startswith("entropy: 2 of 2 off, the worst at ")
        assert not any("wrong" in check for check in written["checks"][1:])
        assert capsys.readouterr().out.splitlines()[-1] == ("8 checks, wrong: logit_stats at B = 2")

    def test_what_a_replay_does_not_write_anew_shows(self) -> None:
        kept = torch.zeros(3)
        calls = []

        def call() -> tuple[torch.Tensor]:
            if not calls:
                kept.fill_(1.0)
            calls.append(1)
            return (kept,)

        lazy = subjects.Subject("lazy", call, subjects.overwrite, lambda out: None)
        assert smoke.judge(lazy, "cpu", 2) == {
            "wrong": "2 of 2 replays have other bits than the first call"
        }

    def test_an_op_that_does_not_run_is_no_wrong_result(
        self, rehearse: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*args: object) -> None:
            raise RuntimeError("out of registers")

        monkeypatch.setattr(subjects, "kv_append_", broken)
        status, written = rehearse(smoke)
        assert status == 1
        failed = [check for check in written["checks"] if "failed" in check]
        assert [(c["op"], c["failed"]) for c in failed] == [
            ("kv_append_", "RuntimeError: out of registers")
        ]
        assert len(written["checks"]) == len(NAMES)  # the others were checked

    def test_a_dead_device_ends_it(self, rehearse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(smoke, "judge", lambda *a: {"failed": "illegal memory access"})
        monkeypatch.setattr(smoke, "alive", lambda device: False)
        status, written = rehearse(smoke)
        assert (status, len(written["checks"])) == (1, 1)

    def test_special_rows_are_judged(self) -> None:
        for subject in subjects.subjects("cpu", 8, 300, 20):
            out = tuple(tensor.clone() for tensor in subject.call())
            subject.check(out)
            subject.spoil(out)
            if subject.name != "step_update_":  # whose outputs were cloned away from its state
                with pytest.raises(AssertionError):
                    subject.check(out)


@pytest.mark.parametrize(("batch", "dtype"), [(3, torch.bfloat16), (8, torch.float32)])
def test_the_search_behind_the_cuts_is_reached_under_the_sanitizer(
    batch: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(batch)
    logits = subjects.noise(batch, sanitized.VOCAB, dtype, generator)
    kept = steer_kernels.reference.kept(logits.double(), 1.0, 0, 0.95, 0.0)
    assert kept[0].sum() > NUCLEUS


class TestMeasure:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(measure.SECONDS, "cpu", 1e-4)
        monkeypatch.setitem(measure.COPY_BYTES, "cpu", 1 << 12)

    def test_every_case_of_the_plan(self, rehearse: Any, tmp_path: Path) -> None:
        status, written = rehearse(measure)
        assert status == 0
        assert written["done"] == written["of"]
        cases = {(row["op"], row["sampling"], row["batch"]) for row in written["rows"]}
        assert len(cases) == len(written["of"]) == 2 * len(MEASURED)
        assert written["floors"]["copy_gbps"] > 0
        text = (tmp_path / "out.md").read_text()
        assert text.startswith("# Rehearsal on a CPU: no figure here is of a GPU\n")
        assert all(f"## {op}, cpu" in text for op in OPS)

    def test_plan_of_a_card(self) -> None:
        cases = measure.plan("cuda", quick=False).cases()
        assert {case.batch for case in cases} == {1, 8, 64, 256}
        assert {case.vocab for case in cases if case.op in OPS[:2]} == {151_936}
        assert {case.k for case in cases if case.op in OPS[:2]} == {20}
        compiled = [case for case in cases if measure.compiled(case, quick=False)]
        assert {(c.op, c.sampling, c.batch) for c in compiled} == {
            (op, sampling, batch)
            for op, sampling in (("logit_stats", None), ("sample_logits", "plain"))
            for batch in (1, 256)
        }
        quick = measure.plan("cuda", quick=True).cases()
        assert {case.batch for case in quick} == {1, 8}
        assert not any(measure.compiled(case, quick=True) for case in quick)

    def test_one_that_fails_does_not_cost_the_others(
        self, rehearse: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def broken(*args: object) -> None:
            raise RuntimeError("out of registers")

        monkeypatch.setattr(steer_kernels, "step_update_", broken)
        status, written = rehearse(measure)
        assert status == 1
        assert len(written["errors"]) == 2
        assert {row["op"] for row in written["rows"]} == set(OPS) - {"step_update_"}
        assert (
            "**step_update_-1x1000-float32-cpu-1T failed: RuntimeError: out of registers**"
            in (tmp_path / "out.md").read_text()
        )

    def test_whole_after_every_case(self, rehearse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        real, seen = measure.by_clock, []

        def interrupted(case: Any, *args: Any, **options: Any) -> Any:
            seen.append(case)
            if len(seen) == 3:
                raise KeyboardInterrupt
            return real(case, *args, **options)

        monkeypatch.setattr(measure, "by_clock", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rehearse(measure)
        out = Path(sys.argv[2])
        written = json.loads(out.read_text())
        assert {row["sampling"] for row in written["rows"]} == {None, "plain"}
        assert "**Cut short: 13 of 16 cases are missing.**" in out.with_suffix(".md").read_text()

    def test_begins_again_behind_a_case_that_broke_the_device(
        self, rehearse: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Replaced(Exception):
            pass

        def execv(path: str, command: list[str]) -> None:
            assert path == sys.executable
            assert command[1:3] == ["-m", "gpu.measure"]
            raise Replaced(command[3:])

        real = steer_kernels.kv_append_
        monkeypatch.setattr(os, "execv", execv)
        monkeypatch.setattr(measure, "alive", lambda device: False)
        monkeypatch.setattr(steer_kernels, "kv_append_", lambda *a: torch.ones(2)[5])
        with pytest.raises(Replaced) as begun:
            rehearse(measure)
        again = begun.value.args[0]
        assert again[-1] == "--resume"
        before = json.loads(Path(sys.argv[2]).read_text())
        monkeypatch.setattr(steer_kernels, "kv_append_", real)
        monkeypatch.setattr(sys, "argv", ["measure", *again])
        assert measure.main() == 1  # one case is missing
        after = json.loads(Path(sys.argv[2]).read_text())
        assert after["rows"][: len(before["rows"])] == before["rows"]
        assert after["done"] == after["of"]
        assert list(after["errors"]) == ["kv_append_-1-bfloat16-cpu-1T"]


def test_ahead(rehearse: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = ahead.generate
    monkeypatch.setattr(
        ahead, "generate", lambda pair, prompts: real(pair, prompts) if len(prompts) == 1 else None
    )
    status, written = rehearse(ahead)
    assert status == 1
    assert list(written["errors"]) == ["3 rows, generate"]
    contenders = [(row["rows"], row["turns"]) for row in written["rows"]]
    assert contenders == [(1, 8), (1, 1), (1, 8), (1, None), (3, 8), (3, 1), (3, 8)]
    tokens = [row["first_tokens"] for row in written["rows"][:3]]
    assert tokens[0] == tokens[1] == tokens[2]
    text = (tmp_path / "out.md").read_text()
    assert "aten::" in text
    assert "**3 rows, generate failed: TypeError" in text


class TestUnderATool:
    """With programs of the shell in the place of the tools, which run what they are given."""

    def test_sanitizer(
        self, rehearse: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = sanitized.header
        monkeypatch.setattr(sanitized, "header", lambda device: real("cpu"))
        tool = script(
            tmp_path / "sanitizer",
            'echo "under $2: $PYTORCH_NO_CUDA_MEMORY_CACHING"',
            'test "$2" = memcheck || exit "$4"',
        )
        status, written = rehearse(sanitized, "--under", str(tool))
        assert status == 1
        assert written["statuses"] == {"memcheck": 0, "racecheck": sanitized.BAD}
        for name in TOOLS:
            assert (tmp_path / f"out-{name}.log").read_text() == f"under {name}: 1\n"

    def test_profiler(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tool = script(
            tmp_path / "ncu",
            'test "$1" = --import && { echo details of $2; exit; }',
            'while test "$1" != --export; do shift; done',
            'touch "$2"; shift 2; echo "$@" > "$(dirname "$0")/command"; exit 7',
        )
        out = tmp_path / "out.json"
        assert profiled.supervise(str(tool), out) == 7
        command = (tmp_path / "command").read_text().split()
        assert command == [sys.executable, "-m", "gpu.profiled", "--out", str(out)]
        assert (tmp_path / "out.txt").read_text() == f"details of {tmp_path}/out.ncu-rep\n"
        script(tool, "exit 0")
        (tmp_path / "out.ncu-rep").unlink()
        assert profiled.supervise(str(tool), out) == 1  # nothing was profiled
        assert "wrote no report" in capsys.readouterr().out


def test_one_call_of_every_op_lies_between_the_marks(
    rehearse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks: list[str] = []
    monkeypatch.setattr(profiled, "mark", lambda device, which: marks.append(which))
    real = profiled.subjects
    monkeypatch.setattr(
        profiled, "subjects", lambda *a: [noted(subject, marks) for subject in real(*a)]
    )
    assert rehearse(profiled)[1]["ops"] == NAMES
    assert marks[-len(NAMES) - 2 :] == ["start", *NAMES, "stop"]
    assert sorted(marks[: -len(NAMES) - 2]) == sorted([*NAMES, *NAMES])


def noted(subject: subjects.Subject, calls: list[str]) -> subjects.Subject:
    return replace(subject, call=lambda: calls.append(subject.name) or subject.call())
