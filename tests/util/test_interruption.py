"""Ctrl-C and SIGTERM at any moment: what is held back, what is said, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from steer_decode.util.files import replacing
from steer_decode.util.interruption import held

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
ENVIRONMENT.pop("PYTHONUNBUFFERED", None)  # what is not written yet is to be
linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


def small_program(lines: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a program that has this module's names and listens."""
    head = (
        "import os, signal, sys, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "from steer_decode.util.interruption import *\n"
        "from steer_decode.util.interruption import check, forgive, listen, raising, telling\n"
        "from steer_decode.util.interruption import at_the_end, deafen, held, status\n"
        "def ctrl_c(number=signal.SIGINT): os.kill(os.getpid(), number)\n"
        "listen()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", head + lines],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


class TestHeld:
    def test_a_signal_acts_at_the_end_of_the_block_and_once(self) -> None:
        seen: list[str] = []
        before = signal.signal(signal.SIGTERM, lambda *_: seen.append("acts"))
        try:
            with held():
                with held():
                    signal.raise_signal(signal.SIGTERM)
                    signal.raise_signal(signal.SIGTERM)
                    seen.append("inner")
                seen.append("outer")
        finally:
            signal.signal(signal.SIGTERM, before)
        assert seen == ["inner", "outer", "acts"]

    def test_ctrl_c_is_an_exception_behind_the_block(self) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        reached = []

        def work() -> None:
            with held():
                signal.raise_signal(signal.SIGINT)
                reached.append("the end")

        try:
            with pytest.raises(KeyboardInterrupt):
                work()
            assert reached == ["the end"]
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, before)

    def test_what_is_ignored_stays_so(self) -> None:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            with held():
                signal.raise_signal(signal.SIGTERM)
                assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_another_thread_has_nothing_to_hold(self) -> None:
        done = []

        def work() -> None:
            with held():
                done.append(True)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert done == [True]

    def test_a_file_is_whole_when_ctrl_c_falls_into_its_writing(self, tmp_path: Path) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)

        def work() -> None:
            with replacing(tmp_path / "a.txt") as temporary:
                temporary.write_text("half")
                signal.raise_signal(signal.SIGINT)
                temporary.write_text("whole")

        try:
            with pytest.raises(KeyboardInterrupt):
                work()
        finally:
            signal.signal(signal.SIGINT, before)
        assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
        assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
class TestListening:
    def test_nothing_can_lose_it(self, number: int, status: int, word: str) -> None:
        lines = f"""
class Careless:
    def __del__(self):
        ctrl_c({number})
        sum(range(9))
try: Careless()
except BaseException: pass
print("and on it goes")
"""
        assert small_program(lines) == (status, "", f"steer: {word}\n")

    def test_what_is_done_is_told_and_endings_run(
        self, number: int, status: int, word: str
    ) -> None:
        lines = f"""
print("so far")
with telling(lambda: "2 of 3"), at_the_end(lambda: os.write(1, b"ended\\n")):
    ctrl_c({number})
    print("and on it goes")
"""
        told = f"steer: {word}: 2 of 3\n"
        assert small_program(lines) == (status, "ended\nso far\n", told)

    def test_where_it_is_raised_and_lost_it_ends_the_block(
        self, number: int, status: int, word: str
    ) -> None:
        lines = f"""
with raising():
    try: ctrl_c({number}); sum(range(9))
    except BaseException: print("lost")
    print("goes on to the end of the block")
print("and no further")
"""
        out = "lost\ngoes on to the end of the block\n"
        assert small_program(lines) == (status, out, f"steer: {word}\n")

    def test_a_second_one_does_not_disturb_what_puts_itself_in_order(
        self, number: int, status: int, word: str
    ) -> None:
        lines = f"""
try:
    with raising():
        try: ctrl_c({number}); sum(range(9))
        finally:
            ctrl_c({number})
            print("in order")
except KeyboardInterrupt as error:
    deafen()
    print(status(error))
"""
        assert small_program(lines) == (0, f"in order\n{status}\n", "")

    def test_the_third_one_ends_it_at_once(self, number: int, status: int, word: str) -> None:
        lines = f"""
with raising():
    try: ctrl_c({number}); sum(range(9))
    finally:
        ctrl_c({number})
        ctrl_c({number})
        sum(range(9))
        print("still in order")
"""
        assert small_program(lines) == (status, "", f"steer: {word}\n")

    def test_what_it_breaks_is_an_interruption_too(
        self, number: int, status: int, word: str
    ) -> None:
        lines = f"""
try:
    with raising():
        try: ctrl_c({number}); sum(range(9))
        except BaseException: raise RuntimeError("no lock was taken")
except KeyboardInterrupt as error:
    print(status(error))
"""
        assert small_program(lines) == (0, f"{status}\n", "")


def test_a_lost_one_is_raised_at_the_next_check_and_may_be_forgiven() -> None:
    lines = """
with raising():
    try: ctrl_c(); sum(range(9))
    except BaseException: pass
    try: check()
    except KeyboardInterrupt as error: forgive(error)
    check()
    print("forgiven")
    try: ctrl_c(signal.SIGTERM); sum(range(9))
    except KeyboardInterrupt as error: forgive(error)
"""
    status, out, error = small_program(lines)
    assert (status, out) == (1, "forgiven\n")
    assert error.splitlines()[-1].endswith("Terminated")


@linux
def test_one_that_does_not_end_a_call_that_waits_is_seen_nevertheless() -> None:
    """As one between the last line of Python and the call; here it reaches another thread."""
    lines = """
reader, writer = os.pipe()
state = f"/proc/self/task/{threading.get_native_id()}/stat"
def send():
    while open(state).read().rpartition(")")[2].split()[0] != "S": pass
    ctrl_c()
threading.Thread(target=send, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
os.read(reader, 1)
print("and on it goes")
"""
    assert small_program(lines) == (130, "", "steer: interrupted\n")


def test_a_signal_that_is_ignored_from_the_start_stays_so() -> None:
    lines = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nlisten()\nctrl_c()\nprint('on')"
    assert small_program(lines) == (0, "on\n", "")


# ------------------------------------------------------------------------------ whole commands
