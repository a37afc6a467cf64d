"""What a vLLM server is, asked before the first token.

Each fault is one sentence that names the argument, the address, and the way out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2 as httpx

from ...core.sampling import Sampling
from ...core.transcript import Writer
from ...errors import ServerError, SteerError
from .calls import Order
from .gate_args import PROBE, is_gated
from .servers import Passing, body_of, refusal, worded

_TOP = 20  # likeliest tokens that every server gives
_PROBES = 3
_NEAR = 1e-3


class Served(NamedTuple):
    """A model that a server has.

    Fields:
        url: of the server, without ``/v1``.
        model: as the server calls it.
        root: folder or hub id that it was started with.
        context: longest text, prompt included.
    """

    url: str
    model: str
    root: str
    context: int


class Inquiry:
    """One server, asked what it is.

    Args:
        client: with which it is asked.
        writer: which of the two models it is to run.
        url: as it was given.

    Raises:
        SteerError: ``url`` is no address.
    """

    def __init__(self, client: httpx.Client, writer: Writer, url: str) -> None:
        self._client = client
        if not _is_address(url):
            raise SteerError(
                f"--{writer}-url must be the address of a server, as in http://127.0.0.1:8001, "
                f"got {url!r}"
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self.name = f"--{writer}-url {shown(self.url)}"
        self._writer = writer

    def model(self, wanted: str | None) -> Served:
        """The model that it runs.

        Args:
            wanted: folder or hub id of the model, or the server's name of it; None for the only one
                that there is.

        Raises:
            SteerError: the server is down, is no vLLM server, or has another model.
        """
        listed = self._ask("GET", "/v1/models")
        try:
            found = self._models(listed["data"])
        except (KeyError, TypeError, ValueError) as error:
            raise SteerError(
                f"{self.name} is no vLLM server (its list of models has no {error}): give the "
                "address of one"
            ) from error
        fit = [m for m in found if wanted is None or _named(m, wanted)]
        if fit and len({m.root for m in fit}) == 1:
            return fit[0]  # which may have several names
        has = ", ".join(repr(m.model) for m in found) or "no model"
        if wanted is None:
            raise SteerError(f"{self.name} has {has}: name one of them as --{self._writer}")
        if not fit:
            raise SteerError(
                f"{self.name} has {has}, and --{self._writer} is {wanted!r}: start it with that "
                "model, or name the one that it has"
            )
        return fit[0]

    def _models(self, listed: Sequence[Any]) -> list[Served]:
        """Its models; an adapter has the context of the model that it is for."""
        contexts = [int(m["max_model_len"]) for m in listed if m.get("max_model_len")]
        longest = max(contexts, default=0) or int(listed[0]["max_model_len"])
        return [
            Served(self.url, str(m["id"]), str(m["root"]), int(m.get("max_model_len") or longest))
            for m in listed
        ]

    def texts(self, model: str, ids: Sequence[int], between: int) -> str:
        """The text of ``ids``, with the token ``between`` after each."""
        tokens = [token for i in ids for token in (i, between)]
        said = self._ask("POST", "/detokenize", {"model": model, "tokens": tokens})
        return str(said.get("prompt"))

    def check_logits(self, served: Served, token: int) -> None:
        """Refuse a server that gives something else than raw logits.

        The probabilities of the likeliest tokens cannot add up to more than 1, and what a
        temperature scales is not raw.

        Raises:
            SteerError: it does.
        """
        way = "start it with --logprobs-mode raw_logits"
        largest, beyond = 0.0, False
        for n in range(1, _PROBES + 1):
            top = self._top(served.model, [token] * n, Sampling())
            if not all(map(math.isfinite, top)):
                raise SteerError(
                    f"{self.name} gives logits that are NaN or not finite: check its weights and "
                    "its dtype"
                )
            largest = max(top)
            beyond = beyond or max(top) > 1 or sum(map(math.exp, top)) > 1 + _NEAR
        if not beyond:
            raise SteerError(f"{self.name} gives log-probabilities in place of raw logits: {way}")
        warm = max(self._top(served.model, [token] * _PROBES, Sampling(temperature=2.0)))
        if abs(warm - largest) > _NEAR + 0.02 * abs(largest):
            raise SteerError(
                f"{self.name} gives logits that temperature and penalties have changed: {way}"
            )

    def gated(self, served: Served, token: int) -> bool:
        """Whether the gate is in the server.

        A server ignores what it does not know, so it is asked by what the gate refuses.
        """
        order = Order([token], 1, (), Sampling(), 0, "steer-check", "a trial")
        body = {**body_of(order, served.model, PROBE), "stream": False}
        del body["stream_options"]
        response = self._send("POST", "/v1/completions", body)
        return is_gated(response.status_code, response.text)

    def _top(self, model: str, prompt: Sequence[int], sampling: Sampling) -> list[float]:
        order = Order(prompt, 1, (), sampling, 0, "steer-check", "a trial")
        body = {**body_of(order, model), "stream": False, "logprobs": _TOP}
        del body["stream_options"]
        said = self._ask("POST", "/v1/completions", body)
        try:
            return [float(v) for v in said["choices"][0]["logprobs"]["top_logprobs"][0].values()]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SteerError(
                f"{self.name} gives no logits with its tokens: give the address of a vLLM server, "
                "and start it with --logprobs-mode raw_logits"
            ) from error

    def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        try:
            return self._client.request(method, self.url + path, json=body)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServerError(
                f"{self.name} cannot be reached ({worded(error)}): start the server there, or mend "
                "the address"
            ) from error

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        response = self._send(method, path, body)
        if response.status_code == 404 and path != "/v1/completions":
            raise SteerError(
                f"{self.name} has no {path}, as a vLLM server has: give the address of one"
            )
        if response.status_code != 200:
            found = refusal(response.status_code, response.text, self.name)
            if isinstance(found, Passing):
                raise ServerError(
                    f"{self.name} cannot answer ({found}): look into its log, and start it again"
                )
            raise found
        try:
            return response.json()
        except json.JSONDecodeError as error:
            raise SteerError(
                f"{self.name} answers {path} with what is no JSON: give the address of a vLLM "
                "server"
            ) from error


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is none beyond 65535
    except ValueError:
        return False
    plain = not parts.query and not parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain


def shown(url: str) -> str:
    """An address without a name and password in it."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _named(served: Served, wanted: str) -> bool:
    """Whether ``wanted`` may be this model: by name, by source, or by the last part of either."""
    given = wanted.rstrip("/")
    last = PurePath(given).name
    return given in (served.model, served.root.rstrip("/")) or last in (
        PurePath(served.model).name,
        PurePath(served.root).name,
    )
