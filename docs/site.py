"""What MkDocs needs to know of this repository: where its pages lie, and which names are public.

Pages lie where they are read without the site: in docs/, beside the code, and at the root. So links
between them are relative to the repository, and the figures that they cite go into the site too.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["*.md", "docs/*.md", "python/steer_decode/demo/README.md", "benchmarks/results/**/*.md"]
FIGURES = ["docs/*.svg", "benchmarks/results/**/*.json", "benchmarks/results/**/*.svg",
           "benchmarks/results/**/*.png"]  # fmt: skip
# Packages whose `__all__` is documented, and modules of which every public name is.
PACKAGES = {"steer_decode": "python/steer_decode", "steer_kernels": "steer_kernels"}
MODULES = {"steer_kernels.fast": "steer_kernels/fast.py",
           "steer_kernels.reference": "steer_kernels/reference.py"}  # fmt: skip


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


def public_names(package: str) -> list[str]:
    """Names in ``__all__`` of a package, read without importing it.

    Where that is no list, they are those that type checkers are handed, as ``A as A``.
    """
    tree = ast.parse((ROOT / PACKAGES[package] / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            if not isinstance(node.value, ast.List):
                imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
                return sorted(a.name for n in imports for a in n.names if a.name == a.asname)
            return [name for name in ast.literal_eval(node.value) if not re.match("__", name)]
    raise ValueError(f"{package} has no __all__ that is a list of names")
