"""Whatever the system says about a file, the sentence names the file, and nothing half stays."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from steer_decode import Calibration, SteerError
from steer_decode.cli import app
from steer_decode.policies.features import FEATURES
from steer_decode.policies.fitted.network import RouterNetwork, TrainedNetwork
from steer_decode.util import files
from support.made_results import leave_pictures_blank, write
from support.side_door import PAIR
from typer.testing import CliRunner


def steer(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new file is one on a full disk: it can be made, and takes nothing."""

    def nothing(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", nothing)
    monkeypatch.setattr(Path, "write_bytes", nothing)
    monkeypatch.setattr("steer_decode.policies.fitted.network.save_file", nothing)


def empty_calibration() -> Calibration:
    return Calibration("x", "max-logit", {"small": {}, "large": {}}, {"small": {}, "large": {}})


def network() -> TrainedNetwork:
    return TrainedNetwork("roro", PAIR.fingerprint, RouterNetwork(list(FEATURES)))


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("make", [empty_calibration, network])
def test_a_full_disk_under_what_is_saved(tmp_path: Path, make: Callable[[], Any]) -> None:
    path = tmp_path / "saved"
    path.touch()
    with pytest.raises(SteerError, match=r"^cannot write '.*saved': No space left on device$"):
        make().save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


@pytest.mark.slow
def test_a_full_disk_under_a_report_names_the_page(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_pictures_blank(monkeypatch)
    folder, page = write(tmp_path / "r", n=2), tmp_path / "page.html"
    request.getfixturevalue("full")
    result = steer("report", folder, "-o", page, "--resamples", 100)
    assert result.exit_code == 2
    assert result.stderr == f"steer: cannot write {str(page)!r}: No space left on device\n"
    assert not page.exists()
    result = steer("report", folder, "-o", page, "--resamples", 100, "--figures", tmp_path / "f")
    assert result.exit_code == 2
    assert f"cannot write {str(tmp_path / 'f')!r}"[:-1] in result.stderr


NO_PLACES = ["x" * 300, "d/" * 2100 + "f", "a\0b", "\udcff\0", "/dev/full/x", "/proc/x/y"]


@pytest.mark.parametrize("name", NO_PLACES, ids=lambda name: repr(name)[:14])
def test_a_place_that_cannot_be_is_named_before_the_work(name: str) -> None:
    with pytest.raises(SteerError, match=r"^cannot write '"):
        files.check_writable(Path(name))
    with pytest.raises(SteerError, match=r"^cannot write '"):
        files.write_whole(Path(name), "text")


def test_a_loop_of_links_is_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(SteerError, match=r"^cannot write '.*loop'"):
        files.write_whole(loop, "text")
    with pytest.raises(SteerError, match=r"^cannot read '.*loop'"):
        files.read_text(loop)


@pytest.mark.parametrize("name", ["~nobody_here_at_all/x", "a\0b"])
def test_a_path_that_a_user_cannot_mean_is_named(name: str) -> None:
    with pytest.raises(SteerError, match="is no name of a file"):
        files.user_path(name)


def test_a_name_as_long_as_names_can_be_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    files.check_writable(path)
    files.write_whole(path, "text")
    assert os.listdir(tmp_path) == [path.name]


def test_an_error_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(SteerError, match=r"^cannot write '.*f': "):
        files.write_whole(path, "half \ud800 a character")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_what_is_given_up_halfway_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def give_up() -> None:
        with files.replacing(path) as place:
            place.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_lines_end_as_any_system_ends_them(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes("\ufeffa\r\nb\rc\n".encode())
    assert files.read_text(path) == "a\nb\nc\n"
