"""The process that compares formulas: it can be stopped, and never stays."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest
from steer_decode.evaluation.evaluate import _judge
from steer_decode.evaluation.tasks import Task, load_checker
from steer_decode.evaluation.tasks.formulas import Formulas, Undecided, formulas
from steer_decode.evaluation.tasks.remarks import remarks

pytest.importorskip("math_verify")

TOWER = "9^{9^{9}}"
HANGS = [TOWER, r"\sum_{k=1}^{1000000} \frac{1}{k^2}", "10000000!", r"\frac{1}{2^{2^{40}}}"]


@pytest.fixture
def quick():  # type: ignore[no-untyped-def]
    asked = Formulas(seconds=1)
    yield asked
    asked.end()


@pytest.mark.slow
def test_a_formula_that_takes_for_ever_is_given_up(quick: Formulas) -> None:
    with pytest.raises(Undecided, match="no verdict within 1 s"):
        quick.same((TOWER, None), ("42", None))
    assert quick.same(("x+1", None), ("1+x", None))


@pytest.mark.slow
@pytest.mark.parametrize("latex", HANGS)
def test_it_is_wrong_and_that_is_said(latex: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formulas, "seconds", 1)
    check = partial(_checked, "42")
    task = Task("d", "1", "?", "42", check)
    correct, said = _judge(task, rf"\boxed{{{latex}}}")
    assert not correct
    assert "math-verify came to no verdict" in said
    assert _judge(task, r"\boxed{42}") == (True, "")


def _checked(answer: str, text: str) -> bool:
    return load_checker("math-verify")(text, answer)


def test_what_is_remarked_is_recorded_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer_decode.evaluation.tasks.checkers.formulas", _Late())
    correct, said = _judge(Task("d", "1", "?", "42", partial(_checked, "42")), r"\boxed{x+1}")
    assert (correct, said) == (False, "too late")
    with remarks() as heard:
        assert load_checker("math-verify")(r"\boxed{x+1}", "2x") is False
    assert heard == ["too late"]


class _Late(Formulas):
    def same(self, reference: object, answer: object) -> bool:
        raise Undecided("too late")


def test_threads_and_forked_workers_are_served() -> None:
    check = load_checker("math-verify")
    assert check(r"\boxed{x+1}", "1+x")
    mine = formulas._process
    assert mine is not None
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda i: check(rf"\boxed{{x+{i}}}", f"{i}+x"), range(8)))
    context = multiprocessing.get_context("fork")
    theirs, ours = context.Pipe()
    worker = context.Process(target=_worker, args=(theirs,))
    worker.start()
    verdict, pid = ours.recv()
    worker.join(60)
    assert verdict
    assert pid != mine.pid, "a worker has a process of its own"
    assert formulas._process is mine
    assert check(r"\boxed{x+2}", "2+x"), "and leaves its parent's alone"
    _gone(pid)


def _worker(out) -> None:  # type: ignore[no-untyped-def]
    with ThreadPoolExecutor(1) as pool:
        verdict = pool.submit(load_checker("math-verify"), r"\boxed{x+1}", "1+x").result()
    assert formulas._process is not None
    out.send((verdict, formulas._process.pid))
    os._exit(0)  # as a worker that is told to


END = {"ends": "", "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"}


@pytest.mark.parametrize("how", END)
@pytest.mark.few(1)
def test_no_process_is_left(how: str) -> None:
    script = (
        "from steer_decode.evaluation.tasks.formulas import formulas\n"
        "assert formulas.same(('x+1', None), ('1+x', None))\n"
        f"print(formulas._process.pid, flush=True)\n{END[how]}"
    )
    done = _run(script)
    _gone(int(done.stdout.readline()))
    done.wait()


@pytest.mark.slow
def test_one_that_reckons_for_ever_does_not_outlive_whoever_asked() -> None:
    script = (
        "from steer_decode.evaluation.tasks.formulas import Formulas\n"
        "asked = Formulas(seconds=1)\n"
        "asked.read('x')\n"
        "print(asked._process.pid, flush=True)\n"
        f"asked.same(('{TOWER}', None), ('42', None))"
    )
    done = _run(script)
    pid = int(done.stdout.readline())
    before = psutil.Process(pid).cpu_times().user
    while psutil.Process(pid).cpu_times().user < before + 0.3:  # it is at it
        time.sleep(0.05)
    os.kill(done.pid, signal.SIGKILL)
    done.wait()
    _gone(pid)


def _run(script: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    search = os.pathsep.join([str(root), str(root / "python"), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": search},
    )


def _gone(pid: int) -> None:
    """Waits until a process has ended; fails after a minute."""
    until = time.monotonic() + 60
    while psutil.pid_exists(pid):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return  # for whoever adopted it
        except psutil.NoSuchProcess:
            return
        assert time.monotonic() < until, f"process {pid} is still there"
        time.sleep(0.05)
