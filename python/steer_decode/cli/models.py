"""The models of a command.

They are found first. Imports of torch and transformers wait until a command runs, so that ``steer
--help`` does not.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from ..errors import SteerError
from . import say

if TYPE_CHECKING:
    from ..core.transcript import Writer
    from ..models.pair import Pair
    from ..models.two_models import TwoModels

DEMO = "demo"
DEMO_TOKENS, TOKENS = 128, 1024


@dataclass(frozen=True)
class Models:
    """Which pair was asked for on the command line.

    Raises:
        SteerError: half a pair, two pairs, or an unknown name.
    """

    pair: str | None
    small: str | None
    large: str | None
    dtype: str | None
    device: str | None
    threads: int | None = None
    small_url: str | None = None
    large_url: str | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        self._check_servers()
        if not self.remote and (self.small is None) != (self.large is None):
            given, missing = ("--small", "--large") if self.small else ("--large", "--small")
            raise SteerError(f"{given} is given without {missing}: a pair needs both")
        if self.pair is not None and self.small is not None:
            raise SteerError("give either --pair or --small and --large, not both")
        if self.pair not in (None, DEMO):
            raise SteerError(f"unknown pair {self.pair!r}: the one that has a name is {DEMO!r}")

    def _check_servers(self) -> None:
        if (self.small_url is None) != (self.large_url is None):
            given, missing = ("--small-url", "--large-url")
            if self.small_url is None:
                given, missing = missing, given
            raise SteerError(f"{given} is given without {missing}: a pair needs two servers")
        if not self.remote:
            if self.tokenizer is not None:
                raise SteerError(
                    "--tokenizer is for two servers: leave it out, or give --small-url and "
                    "--large-url"
                )
            return
        here = {"--pair": self.pair, "--dtype": self.dtype, "--device": self.device}
        for name, value in {**here, "--threads": self.threads}.items():
            if value is not None:
                raise SteerError(
                    f"{name} is for models that are loaded here, and --small-url and --large-url "
                    "name servers: leave it out"
                )

    @property
    def remote(self) -> bool:
        """Whether two servers run the models."""
        return self.small_url is not None

    @property
    def devices(self) -> str | tuple[str, str] | None:
        """The device of both models, or of each.

        Raises:
            SteerError: more than two.
        """
        if self.device is None or "," not in self.device:
            return self.device
        small, *others = (name.strip() for name in self.device.split(","))
        if len(others) != 1 or not small or not others[0]:
            raise SteerError(
                f"--device {self.device}: give one for both models, or two, the small model's first"
            )
        return small, others[0]

    @property
    def demo(self) -> bool:
        return self.small is None and not self.remote

    def names(self) -> dict[Writer, str]:
        """Both models as they were named."""
        if self.small_url is not None and self.large_url is not None:
            return {"small": self.small or self.small_url, "large": self.large or self.large_url}
        if self.small is None or self.large is None:
            return {"small": "demo small", "large": "demo large"}
        return {"small": self.small, "large": self.large}

    def max_new_tokens(self, given: int | None) -> int:
        return given if given is not None else DEMO_TOKENS if self.demo else TOKENS

    def sources(self) -> tuple[str, str, dict[str, Any]]:
        """Folder or hub id of either model, and loading options.

        The options are those that ``from_pretrained`` has to be told.

        Raises:
            SteerError: a folder that is not there.
        """
        if self.small is None or self.large is None:
            from ..demo import pair_paths

            try:
                small, large = map(str, pair_paths())
            except FileNotFoundError as error:
                raise SteerError(str(error)) from error
        else:
            small, large = _found(self.small), _found(self.large)
        local = all(os.path.isdir(source) for source in (small, large))
        # Without a network the hub client would retry for a minute; what is cached loads at once.
        return small, large, {} if local or _hub_resolves() else {"local_files_only": True}

    def open(self) -> TwoModels:
        """Connect to both servers, or load both models.

        Raises:
            SteerError: a server that is down or cannot serve; or as :meth:`load`.
        """
        if self.small_url is None or self.large_url is None:
            return self.load()
        try:
            import httpx2  # noqa: F401
        except ImportError as error:
            raise SteerError(
                "--small-url needs httpx2: pip install 'steer-kernels[vllm]'"
            ) from error
        from ..models.pair import TEMPLATES_DIFFER
        from ..models.vllm_pair import VllmPair
        from .view.terminal import lines

        quiet()
        offline: dict[str, Any] = {} if _hub_resolves() else {"local_files_only": True}
        with lines("looking at the servers"), _without_templates():
            pair = VllmPair.connect(
                self.small_url,
                self.large_url,
                small=self.small,
                large=self.large,
                tokenizer=self.tokenizer,
                **offline,
            )
        if pair.templates_differ:
            say.note(TEMPLATES_DIFFER)
        return pair

    def load(self) -> Pair:
        """Load both models.

        Raises:
            SteerError: a model or a device that is not there.
        """
        import torch

        from ..models.pair import TEMPLATES_DIFFER, Pair
        from .view.terminal import lines

        quiet()
        threads = self.threads or (1 if self.demo else None)
        if threads:
            torch.set_num_threads(threads)
        small, large, more = self.sources()
        with lines("loading the models"), _without_templates():
            pair = Pair.from_pretrained(small, large, dtype=self.dtype, device=self.devices, **more)
        if pair.templates_differ:
            say.note(TEMPLATES_DIFFER)
        return pair


@contextmanager
def _without_templates() -> Iterator[None]:
    """A warning less: that templates differ is said as a note."""
    from ..models.pair import TEMPLATES_DIFFER

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=re.escape(TEMPLATES_DIFFER))
        yield


def _found(source: str) -> str:
    path = os.path.expanduser(source)
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_like_path and not os.path.isdir(path):
        raise SteerError(f"there is no model folder {source!r}: give a folder or a hub id")
    return path if os.path.isdir(path) else source


def _hub_resolves() -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True  # The proxy resolves names.
    url = urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        socket.getaddrinfo(url.hostname, url.port or 443)
    except OSError:
        return False
    return True


def quiet() -> None:
    """Keep notes and loading bars of transformers from users.

    Errors come through.
    """
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if sys.stderr.isatty():
        enable_progress_bars()  # A download of many gigabytes is better seen.
