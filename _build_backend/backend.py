"""setuptools' build backend, with one change: torch is not fetched again where it is installed.

The extension needs a torch to compile against, so an isolated build would download one: with CUDA,
gigabytes, for its headers. As the extension targets the stable ABI, any torch from 2.10 gives the
same binary. So the one that the package is about to be installed beside is used, and torch is
declared as a build requirement only where there is none.

pip hides the environment's packages from an isolated build, but runs it with the environment's
interpreter, which knows where they are. They are put last on sys.path: whatever the build
requirements provide comes first. Front ends that build in an environment of their own (uv, build)
find no torch there and get the requirement.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.metadata import Distribution
from typing import Any

from setuptools.build_meta import *  # noqa: F403  the hooks that stay as they are

OLDEST_TORCH = (2, 10)


def _usable(distribution: Distribution) -> bool:
    try:
        major, minor = distribution.version.split(".")[:2]
        return (int(major), int(minor)) >= OLDEST_TORCH
    except ValueError:
        return False


def _find_torch() -> str | None:
    """The folder of the environment's packages that holds a usable torch."""
    for path in dict.fromkeys((sysconfig.get_path("platlib"), sysconfig.get_path("purelib"))):
        if any(_usable(d) for d in Distribution.discover(name="torch", path=[path])):
            return path
    return None


_torch_path = _find_torch()
if _torch_path is not None and _torch_path not in sys.path:
    sys.path.append(_torch_path)


# setup.py has no setup_requires, so setuptools need not run it to answer these (and it could not
# run before torch is there).
def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    if _torch_path is not None or os.environ.get("STEER_SKIP_EXT", "") not in ("", "0"):
        return []
    return ["torch>=2.10", "numpy"]  # numpy: torch warns without it


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return []
