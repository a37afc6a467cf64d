"""Models and tokenizers off a disk or the hub.

Whatever fails is one sentence. The libraries below raise some twenty kinds of exceptions for a
folder that is not whole. The sentence names the model, the folder and the reason; the exception
itself is its cause.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from ..engines.hf.placing import model_class
from ..errors import OutOfMemoryError, SteerError
from .model_code import check_no_code

# Keywords that only tokenizers take: a model would refuse them.
_OF_TOKENIZERS = {
    "use_fast",
    "tokenizer_type",
    "tokenizer_file",
    "legacy",
    "from_slow",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "padding_side",
    "truncation_side",
    "model_max_length",
    "clean_up_tokenization_spaces",
    "split_special_tokens",
    "additional_special_tokens",
    "extra_special_tokens",
    "chat_template",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "fix_mistral_regex",
}
# Where files are and how they are fetched: for both. What is in neither set is the model's.
_OF_BOTH = {
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
    "use_auth_token",
    "revision",
    "code_revision",
    "subfolder",
    "proxies",
    "trust_remote_code",
    "gguf_file",
}
_OURS = {"output_loading_info": "it is read here", "config": "config.json is the model's own"}
_LONGEST = 300  # letters of a reason


def chosen_dtype(dtype: Any, torch_dtype: Any) -> Any:
    """The dtype of the weights, under either name.

    Transformers has called it ``dtype`` and ``torch_dtype``.

    Returns:
        A floating torch.dtype, "auto", a mapping of either by part, or None where none is given.

    Raises:
        SteerError: two different ones, or something that is no floating dtype.
    """
    given = {"dtype": dtype, "torch_dtype": torch_dtype}
    both = [_dtype(name, value) for name, value in given.items() if value is not None]
    if len(both) == 2 and both[0] != both[1]:
        raise SteerError(
            f"dtype={dtype!r} and torch_dtype={torch_dtype!r} are two names of one argument and "
            "differ: give dtype alone"
        )
    return both[0] if both else None


def _dtype(name: str, value: Any) -> Any:
    if value == "auto" or isinstance(value, Mapping):
        return value
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise SteerError(
            f"{name} must be a floating dtype such as torch.bfloat16, its name, or 'auto', "
            f"got {value!r}"
        )
    return found


def load_config(name: str, source: str | Path, options: Mapping[str, Any]) -> Any:
    """The configuration of a folder or a hub id.

    Args:
        name, source: as in :func:`load_model`.
        options: of ``from_pretrained``; those that only models or tokenizers take are left out.

    Raises:
        SteerError: there is none, it cannot be read, or its quantisation is not known.
    """
    _check_source(name, source, options)
    own = {key: value for key, value in options.items() if key in _OF_BOTH}
    config = _read(AutoConfig, name, source, own)
    _check_format(name, source, config)
    return config


def load_tokenizer(name: str, source: str | Path, options: Mapping[str, Any]) -> Any:
    """The tokenizer of a folder or a hub id.

    Args:
        name: "small" or "large", for messages.
        source: the folder or the id.
        options: of ``from_pretrained``; those that only models take are left out.

    Raises:
        SteerError: there is none, or it cannot be read.
    """
    _check_source(name, source, options)
    own = {key: value for key, value in options.items() if key in _OF_TOKENIZERS | _OF_BOTH}
    return _read(AutoTokenizer, name, source, own)


def load_model(name: str, source: str | Path, dtype: Any, options: Mapping[str, Any]) -> Any:
    """Load the model of a folder or a hub id.

    Every weight of it was in the file.

    Args:
        name: "small" or "large", for messages.
        source: the folder or the id.
        dtype: of the weights.
        options: of ``from_pretrained``; those that only tokenizers take are left out.

    Raises:
        SteerError: there is none, it cannot be read, or its weights do not fit its configuration.
        OutOfMemoryError: it does not fit in memory.
    """
    own = {key: value for key, value in options.items() if key not in _OF_TOKENIZERS}
    for key, why in _OURS.items():
        if key in own:
            raise SteerError(f"{key}= cannot be given to a pair, {why}: leave it out")
    if own.get("gguf_file"):
        _check_source(name, source, options)
    else:
        load_config(name, source, options)
    careless = own.get("ignore_mismatched_sizes", False)
    # Asked to ignore sizes it says which they are; asked to raise, only that there are some.
    more = {**own, "dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = _read(model_class(source, own), name, source, more)
    for mismatch in [] if careless else sorted(found["mismatched_keys"]):
        # Before transformers 5 it is the key alone.
        key, *shapes = (mismatch,) if isinstance(mismatch, str) else mismatch
        held = f", and the file holds {list(shapes[0])}" if shapes else ""
        wanted = list(model.get_parameter(key).shape)
        raise _unreadable(
            name,
            source,
            f"its weights do not fit its config.json, which wants {key} to be {wanted}{held}",
        )
    missing = sorted(found["missing_keys"])
    if missing and not careless:
        raise _unreadable(
            name,
            source,
            f"{len(missing)} weights that its config.json asks for are in no file, the first is "
            f"{missing[0]}",
        )
    return model


def _check_source(name: str, source: str | Path, options: Mapping[str, Any]) -> None:
    if not isinstance(source, str | PathLike):
        raise SteerError(f"the {name} model must be a folder or a hub id, got {source!r}")
    # A hub id is NAME or OWNER/NAME; anything else that is no folder is a path that leads nowhere.
    place = Path(source)
    if place.is_file():
        way = f" and gguf_file={place.name!r}" if place.suffix == ".gguf" else ""
        raise SteerError(
            f"cannot load the {name} model {str(source)!r}: it is a file; give the folder that it "
            f"is in{way}"
        )
    if not place.exists() and not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(source)):
        raise SteerError(f"cannot load the {name} model {str(source)!r}: there is no such folder")
    check_no_code(name, str(source), dict(options))


def _check_format(name: str, source: str | Path, config: Any) -> None:
    """Refuses a quantisation that transformers does not know, and would skip with a warning."""
    packed = getattr(config, "quantization_config", None)
    if packed is None:
        return
    method = packed.get("quant_method") if isinstance(packed, Mapping) else packed
    method = getattr(method, "value", method)
    known = sorted({"bitsandbytes", *AUTO_QUANTIZATION_CONFIG_MAPPING})
    if isinstance(method, str) and method not in known:
        raise _unreadable(
            name,
            source,
            f"its weights are quantised by {method!r}, which transformers does not read (it reads "
            f"{', '.join(known)})",
        )


def _read(auto: Any, name: str, source: str | Path, options: Mapping[str, Any]) -> Any:
    # Said, or transformers would ask at a terminal, and wait.
    options = {"trust_remote_code": False, **options}
    try:
        return auto.from_pretrained(str(source), **options)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(
            f"the {name} model {str(source)!r} does not fit in memory: load it with "
            "dtype=torch.bfloat16, or choose a smaller one"
        ) from error
    except Exception as error:  # some twenty kinds, of five libraries
        raise _unreadable(name, source, _reason(auto, Path(source), error)) from error


def _unreadable(name: str, source: str | Path, reason: str) -> SteerError:
    return SteerError(
        f"cannot load the {name} model {str(source)!r}: {reason.rstrip('.')} "
        "(give a folder with a whole model in it, or a hub id that can be reached)"
    )


def _reason(auto: Any, folder: Path, error: Exception) -> str:
    """Why ``from_pretrained`` failed, in one line; what it says itself is often misleading."""
    files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if auto is AutoTokenizer:
        if "tokenizer.model" in files and "tokenizer.json" not in files:
            for package in ("sentencepiece", "google.protobuf"):
                if not _installed(package):
                    pip = package.replace("google.", "")
                    return f"its tokenizer.model needs the package {pip} (pip install {pip})"
        if files and not any(re.match(r"tokenizer|vocab|merges|spiece", file) for file in files):
            return "there is no tokenizer in it, such as tokenizer.json"
    if "adapter_config.json" in files and "config.json" not in files and not _installed("peft"):
        return "it holds an adapter, which needs the package peft (pip install peft)"
    word = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if isinstance(error, TypeError) and word:
        return f"{auto.__name__}.from_pretrained takes no argument {word[1]!r}: leave it out"
    broken = _broken_file(auto, folder, files)
    text = " ".join(str(error).split())
    if "\n" in str(error).strip():
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # A first line that ends in a colon says nothing yet.
        text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    plain = isinstance(error, OSError | ImportError | ValueError) and text
    said = (text if plain else f"{type(error).__name__}: {text}".rstrip(": "))[:_LONGEST]
    return f"{broken} is broken or cut short ({said})" if broken else said


def _broken_file(auto: Any, folder: Path, files: set[str]) -> str:
    """The first file of those that ``auto`` reads that cannot be opened; "" if there is none."""
    kinds = {
        AutoTokenizer: r"(token|vocab|special|added|config).*\.json",
        AutoConfig: r"config\.json",
    }
    for file in sorted(files):
        if not re.fullmatch(kinds.get(auto, r".*\.safetensors(\.index\.json)?|config\.json"), file):
            continue
        try:
            if file.endswith(".safetensors"):
                with safe_open(folder / file, "pt"):
                    pass
            elif not isinstance(json.loads((folder / file).read_text(encoding="utf-8")), dict):
                return file
        except Exception:  # what it is has been raised before
            return file
    return ""


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
