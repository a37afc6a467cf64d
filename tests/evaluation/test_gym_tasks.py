"""Problems of reasoning-gym: the same in every process, graded by their data sets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from steer_decode import SteerError
from steer_decode.evaluation.tasks import (
    gym_tasks,
    load_checker,
)

_SHOW = """
import json, sys
from steer_decode.evaluation.tasks import gym_tasks
tasks = [gym_tasks(name, int(sys.argv[1])) for name in sys.argv[2:]]
print(json.dumps([[[t.prompt, t.answer] for t in some] for some in tasks]))
"""


_ALL = """
import json, random, sys
from reasoning_gym.factory import DATASETS
from steer_decode.evaluation.tasks.gym_process import entries
random.seed(sys.argv[1])
names = sorted(DATASETS.keys() - {"composite"})[int(sys.argv[2]) :: 3]
made = {name: entries(name, int(sys.argv[1]), {"seed": 0}) for name in names}
shown = {name: [[e["question"], str(e["answer"])] for e in made[name]] for name in names}
print("\\n" + json.dumps(shown))
"""


def printed(script: str, *arguments: object, seed: str) -> Any:
    """What a process prints whose hashes have that seed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


class TestGym:
    @pytest.mark.slow
    def test_problems_are_the_same_in_all_processes(self) -> None:
        pytest.importorskip("reasoning_gym")
        names = ["acre", "word_ladder"]
        few, more = (printed(_SHOW, n, *names, seed=str(n)) for n in (2, 5))
        assert few == [some[:2] for some in more]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "third", [0, *(pytest.param(i, marks=pytest.mark.exhaustive) for i in (1, 2))]
    )
    def test_problems_of_all_sets_are_the_same_for_every_n(self, third: int) -> None:
        pytest.importorskip("reasoning_gym")
        few, more = (printed(_ALL, n, third, seed="0") for n in (2, 4))
        assert len(few) > 33
        assert few == {name: some[:2] for name, some in more.items()}

    @pytest.mark.slow
    def test_a_composite_of_data_sets(self) -> None:
        pytest.importorskip("reasoning_gym")
        spec = 'composite:datasets=[{"name":"chain_sum","weight":1,"config":{"min_terms":2}}]'
        (task,) = gym_tasks(spec, 1)
        assert task.check(f"<answer>{task.answer}</answer>")

    @pytest.mark.slow
    def test_problems_are_graded_and_fixed(self) -> None:
        pytest.importorskip("reasoning_gym")
        few, more = gym_tasks("chain_sum", 2), gym_tasks("chain_sum", 3)
        assert [t.prompt for t in few] == [t.prompt for t in more[:2]]
        assert few[0].check(f"so\n\n<answer>{few[0].answer}</answer>")
        assert not few[0].check("<answer>none</answer>")
        harder = gym_tasks("chain_sum:min_terms=9:max_terms=9", 1)
        assert harder[0].domain == "chain_sum:min_terms=9:max_terms=9"
        assert harder[0].prompt.count(" + ") + harder[0].prompt.count(" - ") == 8

    @pytest.mark.parametrize(
        "spec",
        [
            "no_such_set",
            "chain_sum:min_terms",
            pytest.param("chain_sum:nothing=1", marks=pytest.mark.slow),
        ],
    )
    def test_unknown_names_and_settings(self, spec: str) -> None:
        pytest.importorskip("reasoning_gym")
        with pytest.raises(SteerError, match=f"tasks 'reasoning-gym:{spec}'"):
            gym_tasks(spec, 1)

    def test_missing_package(self, monkeypatch: Any) -> None:
        monkeypatch.setattr("steer_decode.evaluation.tasks.gym.find_spec", lambda name: None)
        with pytest.raises(SteerError, match=r"pip install steer-kernels\[eval\]"):
            gym_tasks("chain_sum", 1)
        monkeypatch.setattr("steer_decode.evaluation.tasks.checkers.find_spec", lambda name: None)
        with pytest.raises(SteerError, match=r"pip install steer-kernels\[eval\]"):
            load_checker("math-verify")
