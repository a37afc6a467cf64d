"""What MkDocs needs to know of this repository: where its pages lie, and which names are public.

Pages lie where they are read without the site: in docs/, beside the code, and at the root. So links
between them are relative to the repository, and the figures that they cite go into the site too.
"""

from __future__ import annotations

import ast
import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["*.md", "docs/*.md", "python/steer_decode/demo/README.md", "benchmarks/results/**/*.md"]
FIGURES = ["docs/*.svg", "docs/*.png", "docs/*.json", "benchmarks/results/**/*.json",
           "benchmarks/results/**/*.svg", "benchmarks/results/**/*.png"]  # fmt: skip
# Packages whose `__all__` is documented, and modules of which every public name is.
PACKAGES = {"steer_decode": "python/steer_decode", "steer_kernels": "steer_kernels",
            "steer_kernels.reference": "steer_kernels/reference"}  # fmt: skip
MODULES = {"steer_kernels.fast": "steer_kernels/fast.py"}


class PlainRoles(griffe.Extension):
    """Show what a docstring refers to by a role, :meth:`finish` say, as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r":(?:class|meth|func|data|attr|mod|exc):`(?:~[\w.]*\.)?([^`]+)`",
                r"``\1``",
                obj.docstring.value,
            )


def on_config(config: Any) -> Any:
    """Put the reference behind the pages that mkdocs.yml names."""
    config["nav"].append({"Reference": [*map(_navigation, [*PACKAGES, *MODULES])]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Take the repository's pages in place of the folder docs alone."""
    # What stays is the theme's and the plugins'.
    ours = [file for file in files if file.src_dir != config["docs_dir"]]
    for pattern in [*PAGES, *FIGURES]:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            ours.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
    for page, text in _reference().items():
        ours.append(File.generated(config, page, content=text))
    return Files(ours)


def _navigation(module: str) -> dict[str, Any]:
    pages = [f"reference/{module}/index.md"]
    if module in PACKAGES:
        pages += [f"reference/{module}/{name}.md" for name in public_names(module)]
    return {module: pages}


def _reference() -> dict[str, str]:
    """Each page of the reference by its path: one a package or module, one a public name."""
    pages = {}
    for module in MODULES:
        pages[f"reference/{module}/index.md"] = f"# {module}\n\n::: {module}\n"
    for package in PACKAGES:
        names = public_names(package)
        table = "\n".join(f"- [`{name}`]({name}.md)" for name in names)
        pages[f"reference/{package}/index.md"] = f"# {package}\n\n{table}\n"
        for name in names:
            pages[f"reference/{package}/{name}.md"] = f"::: {package}.{name}\n"
    return pages


@cache
def public_names(package: str) -> list[str]:
    """Names in ``__all__`` of a package, without what importing it needs."""
    path = ROOT / PACKAGES[package] / "__init__.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            if isinstance(node.value, ast.List):  # of a package that imports torch
                names = ast.literal_eval(node.value)
            else:  # of one that imports nothing until it is asked for a name
                names = runpy.run_path(str(path))["__all__"]
            return [name for name in names if not name.startswith("__")]
    raise ValueError(f"{path} has no __all__")
