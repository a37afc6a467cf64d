"""What long work keeps over an interruption, and that its end is that of a run without one."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from steer_decode import Pair, SteerError
from steer_decode.cli import app
from steer_decode.demo import DOMAINS, grade, pair_paths, problems
from steer_decode.fitting import CheckedPrompt, Training, fit_corea, fit_ecotab, mixtures, train
from steer_decode.fitting.both_sides import calibrate_sides
from steer_decode.fitting.mixtures import Prompts, calibrate
from steer_decode.util.partial import Partial
from support.preloaded import Launch
from support.tiny import make_pair, prompt_text
from typer.testing import CliRunner


def same(value: Any) -> Any:
    return value


class Work:
    """Three batches of numbers; counts what it makes, and is cut off before item ``stop``."""

    BATCHES = ([0.1, math.inf, -0.0], [1 / 3, math.nan], [5e-324])

    def __init__(self, stop: int = 99) -> None:
        self.stop = stop
        self.made = 0

    def make(self, batch: list[float]) -> Iterator[float]:
        for value in batch:
            if self.made == self.stop:
                raise KeyboardInterrupt
            self.made += 1
            yield value

    def run(self, out: Path, **settings: Any) -> list[float]:
        kept = Partial(out, settings)
        found = []
        try:
            for batch in self.BATCHES:
                found += kept.batch(lambda batch=batch: self.make(batch), same, same)
            kept.finish()
        finally:
            kept.close()
        return found


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.part-*.jsonl"))


class TestPartial:
    @pytest.mark.parametrize(("stop", "kept"), [(0, 0), (2, 0), (3, 3), (4, 3), (5, 5)])
    def test_what_is_kept_comes_back_number_for_number(
        self, stop: int, kept: int, tmp_path: Path
    ) -> None:
        out, whole = tmp_path / "c.json", Work().run(tmp_path / "other.json")
        assert parts(tmp_path) == []
        with pytest.raises(KeyboardInterrupt):
            Work(stop).run(out)
        assert len(parts(tmp_path)) == bool(kept)  # no file of nothing
        again = Work()
        assert list(map(repr, again.run(out))) == list(map(repr, whole))
        assert again.made == 6 - kept
        assert parts(tmp_path) == []

    def test_a_line_that_was_cut_off_is_made_again(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            Work(5).run(tmp_path / "c.json")
        (path,) = parts(tmp_path)
        path.write_bytes(path.read_bytes()[:-3])
        again = Work()
        assert len(again.run(tmp_path / "c.json")) == 6
        assert again.made == 3

    def test_other_settings_begin_anew_and_are_named(self, tmp_path: Path) -> None:
        out = tmp_path / "c[1].json"
        with pytest.raises(KeyboardInterrupt):
            Work(5).run(out, signal="margin", n=2)
        (path,) = parts(tmp_path)
        kept = Partial(out, {"signal": "entropy", "n": 2})
        assert kept.found == 0
        assert kept.others() == [(path, "signal was margin, now entropy")]
        kept.close()
        work = Work()
        work.run(out, signal="entropy", n=2)
        assert work.made == 6
        # And going back to the old ones goes on from them.
        work = Work()
        work.run(out, signal="margin", n=2)
        assert work.made == 1
        assert parts(tmp_path) == []

    @pytest.mark.parametrize("line", ["{}", '{"a": 1}', "[1, 2", "", "\udcff"])
    def test_what_was_not_written_there_is_refused(self, line: str, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            Work(5).run(tmp_path / "c.json")
        (path,) = parts(tmp_path)
        head = path.read_text().splitlines()[0]
        path.write_bytes(f"{head}\n{line}\n[1]\n".encode(errors="surrogateescape"))
        with pytest.raises(SteerError, match=r"line 2 of '.*' is not what was written.*remove the"):
            Partial(tmp_path / "c.json", {})

    def test_a_record_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            Work(5).run(tmp_path / "c.json")
        kept = Partial(tmp_path / "c.json", {})
        with pytest.raises(SteerError, match="line 2 of"):
            list(kept.batch(list, same, lambda record: record["text"]))
        kept.close()

    def test_two_at_a_time_are_refused(self, tmp_path: Path) -> None:
        kept = Partial(tmp_path / "c.json", {})
        with pytest.raises(
            SteerError, match=r"another process is making '.*c\.json' with the same"
        ):
            Partial(tmp_path / "c.json", {})
        kept.close()

    def test_beside_a_device_nothing_is_kept(self) -> None:
        kept = Partial(Path(os.devnull), {})
        assert list(kept.batch(lambda: [1, 2], same, same)) == [1, 2]
        assert (kept.path, kept.records) == (None, 0)
        kept.finish()


class Stop:
    """Raises what Ctrl-C does at the ``n``-th answer."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.answers = 0

    def __call__(self, *_: object) -> None:
        self.answers += 1
        if self.answers == self.n:
            raise KeyboardInterrupt


SETTINGS: dict[str, Any] = {"n": 1}


class TestCalibrations:
    PROMPTS = tuple(prompt_text(i) for i in range(12))

    def run(self, cohort: int, kept: Partial | None = None, stop: int = 0) -> tuple[Prompts, Stop]:
        counted = Stop(stop)
        options = {"max_new_tokens": 40, "temperature": 0.5}
        pair = make_pair("qwen2", 1)
        return Prompts(
            pair, self.PROMPTS, "max-logit", options, cohort, counted, kept=kept
        ), counted

    @pytest.mark.parametrize(
        ("cohort", "share"),
        [
            (1, None),
            (5, None),
            pytest.param(5, 0.4, marks=pytest.mark.slow),
            pytest.param(1, 0.4, marks=pytest.mark.exhaustive),
        ],
    )
    @pytest.mark.few(1)
    def test_one_that_goes_on_is_one_that_was_not_cut_off(
        self, share: float | None, cohort: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mixtures, "_HALVINGS", 3)  # what is run between two cuts: no matter
        monkeypatch.setattr(mixtures, "_REFITS", 2)
        whole, counted = self.run(cohort)
        expected = calibrate(whole, large_share=share)
        total = counted.answers
        done = 0
        for stop in (3, 8):
            kept = Partial(tmp_path / "c.json", SETTINGS)
            assert kept.found == done
            run, counted = self.run(cohort, kept, stop)
            with pytest.raises(KeyboardInterrupt):
                calibrate(run, large_share=share)
            # Whole cohorts are kept, and the one at work is lost.
            done = kept.records
            assert done % cohort == 0
            kept.close()
        assert done >= 5
        kept = Partial(tmp_path / "c.json", SETTINGS)
        run, counted = self.run(cohort, kept)
        found = calibrate(run, large_share=share)
        kept.finish()
        assert found == expected
        assert counted.answers == total - done
        assert parts(tmp_path) == []

    @pytest.mark.slow
    def test_both_sides(self, tmp_path: Path) -> None:
        pair = Pair.from_pretrained(*pair_paths())
        prompts = [p.prompt for name in DOMAINS for p in problems(name, 4, split="calibration")]
        about: dict[str, Any] = {"options": {"max_new_tokens": 40}, "cohort": 12}
        expected = calibrate_sides(Prompts(pair, prompts, **about), ["margin"])
        kept = Partial(tmp_path / "c.json", SETTINGS)
        cut_off = Prompts(pair, prompts, **about, progress=Stop(40), kept=kept)
        with pytest.raises(KeyboardInterrupt):
            calibrate_sides(cut_off, ["margin"])
        kept.close()
        kept = Partial(tmp_path / "c.json", SETTINGS)
        assert kept.found == 36
        assert calibrate_sides(Prompts(pair, prompts, **about, kept=kept), ["margin"]) == expected
        kept.finish()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["corea", "ecotab", "policy-guided", pytest.param("roro", marks=pytest.mark.exhaustive)],
)
def test_a_router_that_is_trained_on_is_one_that_was_not_cut_off(kind: str, tmp_path: Path) -> None:
    pair = Pair.from_pretrained(*pair_paths())
    network = kind in ("policy-guided", "roro")
    some = 6 if network else 24
    drawn = [p for name in DOMAINS for p in problems(name, some, split="calibration")]
    tasks = [CheckedPrompt(p.prompt, lambda text, p=p: grade(p, text)) for p in drawn]

    def made(stop: int, kept: Partial | None) -> Any:
        if kind == "corea":
            return fit_corea(pair, tasks, progress=Stop(stop), kept=kept)
        if kind == "ecotab":
            return fit_ecotab(pair, tasks, progress=Stop(stop), kept=kept)
        training = Training(kind, iterations=4, questions=3, max_new_tokens=64)
        router = train(pair, tasks, training, Stop(stop), kept)
        state = {name: value.tolist() for name, value in router.network.state_dict().items()}
        return router.settings, state

    expected = made(0, None)
    kept = Partial(tmp_path / "r", SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        made(3 if network else 40, kept)
    found = kept.records
    kept.close()
    kept = Partial(tmp_path / "r", SETTINGS)
    assert kept.found == found > 0
    assert made(0, kept) == expected
    kept.finish()


COMMAND = ["calibrate", "--pair", "demo", "--n", "4", "--cohort", "2", "--max-new-tokens", "60"]


@pytest.mark.slow
def test_a_command_that_was_killed_goes_on_and_says_so(tmp_path: Path, launch: Launch) -> None:
    out = tmp_path / "c.json"
    process = launch(["-m", "steer_decode", *COMMAND, "--out", str(out)])
    while process.poll() is None and not any(
        p.read_bytes().count(b"\n") > 2 for p in parts(tmp_path)
    ):
        time.sleep(0.01)
    process.kill()
    process.wait()
    (path,) = parts(tmp_path)
    found = 2 * (path.read_bytes().count(b"\n") - 1)
    assert 0 < found < 12
    # Other settings do not go on with it, and leave it alone.
    other = CliRunner().invoke(app, [*COMMAND, "--signal", "margin", "--out", str(out)])
    assert other.exit_code == 0, other.output
    assert f"{path} is of a run with other settings (signal was max-logit, now margin)" in (
        other.stderr
    )
    again = CliRunner().invoke(app, [*COMMAND, "--out", str(out)])
    assert again.exit_code == 0, again.output
    assert f"steer: {found} answers of a run that was cut off are in {path}" in again.stderr
    whole = CliRunner().invoke(app, [*COMMAND, "--out", str(tmp_path / "whole.json")])
    assert "cut off" not in whole.stderr
    assert json.loads(out.read_text()) == json.loads((tmp_path / "whole.json").read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.json", "whole.json"]
