"""Triton kernels compiled without a GPU, in a process where they are not interpreted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def compiler(script: str) -> Iterator[Callable[..., dict[str, Any]]]:
    """What :func:`serve` answers in ``script``; one process for all calls.

    Importing torch and Triton takes it several times as long as compiling a kernel.
    """
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    tests = Path(__file__).parents[1]
    environment["PYTHONPATH"] = os.pathsep.join([str(tests.parent), str(tests)])
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(*arguments: Any) -> dict[str, Any]:
            if process.poll() is None:
                print(json.dumps(arguments), file=process.stdin, flush=True)
            answer = process.stdout.readline()
            if not answer:
                said.seek(0)
                raise AssertionError(f"{script} has ended: {said.read()}")
            return json.loads(answer)

        try:
            yield ask
        finally:
            process.communicate()


def serve(compile_kernel: Callable[..., dict[str, Any]]) -> None:
    """Answers each line of arguments with a line of what was found."""
    for line in sys.stdin:
        print(json.dumps(compile_kernel(*json.loads(line))), flush=True)
