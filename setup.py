"""Builds the C++ and CUDA extensions; everything else about the package is in pyproject.toml.

Environment:
    STEER_SKIP_EXT=1     no extension: a pure-Python package that runs on the torch reference
    STEER_FORCE_CUDA=1   build the CUDA part even though torch is a CPU build (nvcc is needed)
    STEER_FORCE_CUDA=0   leave the CUDA part out
    STEER_BUILD          parts to build, some of "cpu,fast,cuda"; by default all that can be: "fast"
                         in the source tree alone, "cuda" as said above
    TORCH_CUDA_ARCH_LIST architectures of the CUDA part, e.g. "8.0;9.0;10.0"
    MAX_JOBS             number of compilers at a time
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).parent
TORCH_TARGET = "0x020A000000000000"  # the stable ABI as of torch 2.10
# A free-threaded Python (3.13t, 3.14t) has no limited API: there the wheel is for it alone.
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")
DEFAULT_CUDA_ARCHS = "8.0;9.0;10.0+PTX"
PARTS = ("cpu", "fast", "cuda")

KERNELS = "csrc/cpu/"  # these know neither Python nor torch

CXX_FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",  # CPython adds -g to its own flags
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-missing-field-initializers",
]
STABLE_ABI = f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xptxas", "-v", STABLE_ABI]


def flag(name: str) -> bool | None:
    """An on/off environment variable; None where it is not set."""
    value = os.environ.get(name, "").strip().lower()
    if value in ("", "auto"):
        return None
    if value in ("1", "on", "true", "yes"):
        return True
    if value in ("0", "off", "false", "no"):
        return False
    sys.exit(f"steer-kernels: {name} must be 0 or 1, got {value!r}")


def find_cuda_home() -> Path | None:
    """The CUDA toolkit's folder: CUDA_HOME, or where nvcc is."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return Path(named)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    for candidate in (Path(nvcc), Path(nvcc).resolve()):  # nvcc may be a link into the toolkit
        if (candidate.parent.parent / "include" / "cuda_runtime_api.h").exists():
            return candidate.parent.parent
    default = Path("/usr/local/cuda")
    return default if (default / "include" / "cuda_runtime_api.h").exists() else None


def want_cuda() -> bool:
    """Whether to build the CUDA part: when asked to, or when torch and the toolkit both allow."""
    import torch

    forced = flag("STEER_FORCE_CUDA")
    if forced is False:
        return False
    if forced is None and torch.version.cuda is None:
        return False
    if find_cuda_home() is not None:
        return True
    if forced:
        sys.exit(
            "steer-kernels: STEER_FORCE_CUDA=1, but there is no nvcc on PATH and CUDA_HOME is "
            "not set"
        )
    print("steer-kernels: torch has CUDA but nvcc was not found; building the CPU part only")
    return False


def named_parts() -> set[str]:
    """Parts that STEER_BUILD asks for; all of them where it is not set."""
    named = {name.strip() for name in os.environ.get("STEER_BUILD", "").split(",")} - {""}
    unknown = sorted(named - set(PARTS))
    if unknown:
        sys.exit(f"steer-kernels: STEER_BUILD must name some of cpu,fast,cuda, got {unknown[0]!r}")
    return named or set(PARTS)


def sources(*patterns: str) -> list[str]:
    found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def headers() -> list[str]:
    """Every header, so that a change in one rebuilds what depends on it."""
    return [str(path) for path in sorted((ROOT / "csrc").rglob("*.h"))]


def cpu_extension():
    from torch.utils.cpp_extension import CppExtension

    return CppExtension(
        "steer_kernels._C",
        sources("csrc/bind/cpu.cpp", "csrc/cpu/*.cpp"),
        include_dirs=[str(ROOT / "csrc")],
        depends=headers(),
        extra_compile_args={"cxx": [*CXX_FLAGS, STABLE_ABI]},
        py_limited_api=LIMITED_API,
    )


def fast_extension():
    """The out= path, with pybind11 as torch's headers carry it; for this Python and this torch."""
    from torch.utils.cpp_extension import CppExtension

    return CppExtension(
        "steer_kernels._fast",
        sources("csrc/bind/fast.cpp", "csrc/cpu/*.cpp"),
        include_dirs=[str(ROOT / "csrc")],
        depends=headers(),
        extra_compile_args={"cxx": CXX_FLAGS},
    )


def in_place() -> bool:
    """Whether this builds into the source tree (pip install -e), rather than a wheel."""
    return bool({"editable_wheel", "develop", "--inplace", "-i"} & set(sys.argv))


def cuda_extension():
    """The CUDA part as a CppExtension with .cu sources.

    torch's CUDAExtension would link libtorch_cuda, which a CPU build of torch does not have; this
    part uses only the CUDA runtime, linked statically so that it loads where none is installed.
    """
    from torch.utils import cpp_extension

    home = find_cuda_home()
    assert home is not None  # want_cuda() looked
    cpp_extension.CUDA_HOME = str(home)  # left unset by a CPU build of torch
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHS)
    libraries = [home / name for name in ("lib64", "lib", "targets/x86_64-linux/lib")]
    return cpp_extension.CppExtension(
        "steer_kernels._C_cuda",
        sources("csrc/bind/cuda.cpp", "csrc/cuda/*.cu"),
        include_dirs=[str(ROOT / "csrc"), str(home / "include")],
        library_dirs=[str(path) for path in libraries if path.is_dir()],
        libraries=["cudart_static", "dl", "pthread", "rt"],
        depends=headers(),
        extra_compile_args={"cxx": [*CXX_FLAGS, STABLE_ABI], "nvcc": NVCC_FLAGS},
        py_limited_api=LIMITED_API,
    )


def build_command() -> type:
    """The command build_ext, which compiles what it has not compiled before."""
    import torch
    from torch.utils.cpp_extension import BuildExtension

    # pip drops the objects of an editable build; here ninja finds them, and each torch its own.
    name = f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}-{torch.__version__}"

    class BuildOnce(BuildExtension):
        """The kernels are compiled once, for all extensions that they are linked into."""

        def finalize_options(self) -> None:
            named = self.build_temp
            super().finalize_options()
            self.build_temp = named or str(ROOT / "build" / name)

        def build_extension(self, extension) -> None:
            kernels = [source for source in extension.sources if source.startswith(KERNELS)]
            if kernels:
                extension = copy.copy(extension)
                extension.sources = [s for s in extension.sources if s not in kernels]
                extension.depends = [*extension.depends, *kernels]
                extension.extra_objects = self.compiler.compile(
                    kernels,
                    output_dir=self.build_temp,
                    include_dirs=[str(ROOT / "csrc")],
                    extra_postargs={"cxx": CXX_FLAGS},
                )
            super().build_extension(extension)

    return BuildOnce


def extensions() -> dict:
    """The ext_modules and cmdclass arguments of setup()."""
    if flag("STEER_SKIP_EXT"):
        print("steer-kernels: STEER_SKIP_EXT=1, building without the C++ extension")
        return {}
    try:
        build = build_command()
    except ImportError as error:
        if {"sdist", "egg_info"} & set(sys.argv):  # these compile nothing
            return {}
        sys.exit(
            f"steer-kernels: building needs torch >= 2.10 in the build environment ({error}). "
            "Install torch first and use `pip install --no-build-isolation .`, or set "
            "STEER_SKIP_EXT=1 for the pure-Python package."
        )
    named, modules = named_parts(), []
    if "cpu" in named:
        modules.append(cpu_extension())
    if "fast" in named and in_place():
        modules.append(fast_extension())
    if "cuda" in named and want_cuda():
        modules.append(cuda_extension())
    if not modules:
        sys.exit(
            "steer-kernels: STEER_BUILD leaves nothing to build: fast is for a build in the source "
            "tree, and cuda needs nvcc, and a torch with CUDA or STEER_FORCE_CUDA=1"
        )
    commands = {"build_ext": build}
    if LIMITED_API:
        commands["bdist_wheel"] = Abi3Wheel
    return {"ext_modules": modules, "cmdclass": commands}


class Abi3Wheel(bdist_wheel):
    """Tags the wheel cp310-abi3: nothing in it depends on the version of CPython or of torch."""

    def finalize_options(self) -> None:
        self.py_limited_api = "cp310"
        super().finalize_options()


setup(**extensions())
