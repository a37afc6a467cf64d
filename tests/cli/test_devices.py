"""Where the two models are, and whether they work at the same time."""

from __future__ import annotations

import pytest
from support.commands import refused, steer

ASK = ["generate", "--problem", "math:2", "--router", "first-token", "--view", "text"]


def test_each_on_a_device_of_its_own_at_the_same_time() -> None:
    alone = steer(*ASK)
    assert alone.output.strip()
    assert steer(*ASK, "--device", "cpu,cpu", "--overlap").output == alone.output


@pytest.mark.parametrize("device", ["cpu,cpu,cpu", "cpu,", ",cpu"])
def test_as_many_devices_as_no_pair_has_models(device: str) -> None:
    assert f"--device {device}: give one for both models, or two" in refused(
        *ASK, "--device", device
    )


def test_what_fits_is_reckoned_for_one_device() -> None:
    assert "name one of them" in refused("check", "--pair", "demo", "--device", "cpu,cpu")
