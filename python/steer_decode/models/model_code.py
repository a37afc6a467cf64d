"""Models that come with code of their own.

Refused unless the caller trusts it. Transformers runs such code where ``trust_remote_code=True``
says so, and asks at a terminal where nothing is said. Two ways go around that in some of its
releases: a local folder's own ``generate`` (before 5), and an attention kernel of the hub that
``config.json`` names (with the package ``kernels``). A configuration is data; what it names is not
fetched and not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from ..errors import SteerError

_OWN_GENERATE = Path("custom_generate") / "generate.py"


def check_no_code(name: str, source: str, options: dict[str, Any]) -> None:
    """Refuse a model whose files name code that would run.

    Args:
        name: "small" or "large".
        source: folder or hub id.
        options: of ``from_pretrained``. With ``trust_remote_code`` nothing is refused.

    Raises:
        SteerError: naming the file and the way out.
    """
    if options.get("trust_remote_code"):
        return
    if (Path(source) / _OWN_GENERATE).is_file():
        raise SteerError(
            f"the {name} model {source!r} brings code of its own, {_OWN_GENERATE}: read it, and "
            "pass trust_remote_code=True to run it, or remove it; routed decoding does not need it"
        )
    if options.get("attn_implementation") is None:
        kernel = next(_kernels(source, options), None)
        if kernel is not None:
            raise SteerError(
                f"the config.json of the {name} model {source!r} names an attention kernel to be "
                f"fetched and run, {kernel!r}: remove it there, or choose attention yourself, as "
                "attn_implementation='sdpa'"
            )


def _kernels(source: str, options: dict[str, Any]) -> Iterator[str]:
    """Attention implementations that are repositories of the hub."""
    try:
        config = AutoConfig.from_pretrained(source, **{**options, "trust_remote_code": False})
    except Exception:  # whatever is wrong with it is said when the model itself is loaded
        return
    parts = [config, *(value for value in vars(config).values())]
    for part in parts:
        if isinstance(part, PretrainedConfig):
            chosen = getattr(part, "_attn_implementation", None)
            if isinstance(chosen, str) and "/" in chosen:
                yield chosen
