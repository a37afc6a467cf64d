"""Clients that load a server on this machine.

They are bounded in number and time."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ...errors import SteerError

MOST_SECONDS = 600.0  # of one load


class ServerProcess:
    """``steer serve`` with the demo pair, as a process.

    Args:
        options: of the command.

    Raises:
        SteerError: it does not start.
    """

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "steer_decode", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if " at http://" in line:
                self.url = line.split(" at ")[1].split()[0]
                break
        else:
            raise SteerError(f"the server did not start: {''.join(said).strip()}")
        # Its log has to be read, or it would wait for room in the pipe.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    @property
    def resident_bytes(self) -> int:
        """Memory of the server's processes."""
        import psutil

        server = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in (server, *server.children(recursive=True)))


@dataclass
class Streamed:
    """One answer as it came.

    Attributes:
        text: of all deltas.
        finish: its ``finish_reason``; "" if the stream broke off.
        first: seconds to the first text.
        gaps: seconds between texts.
        seconds: of the whole.
        tokens: that the usage counts.
    """

    text: str = ""
    finish: str = ""
    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0


async def stream(client: Any, prompt: str, **options: Any) -> Streamed:
    """One answer by the official client."""
    begin = last = time.perf_counter()
    found = Streamed()
    chunks = await client.chat.completions.create(
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        stream_options={"include_usage": True},
        **{"model": "steer", "temperature": 0, **options},
    )
    async for chunk in chunks:
        if chunk.usage:
            found.tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            found.finish = choice.finish_reason or found.finish
            if choice.delta.content:
                now = time.perf_counter()
                if found.text:
                    found.gaps.append(now - last)
                else:
                    found.first = now - begin
                found.text, last = found.text + choice.delta.content, now
    found.seconds = time.perf_counter() - begin
    return found


async def together(
    url: str, prompts: Sequence[str], at_once: int, **options: Any
) -> list[Streamed]:
    """Answers to ``prompts``, at most ``at_once`` together."""
    from openai import AsyncOpenAI

    gate = asyncio.Semaphore(at_once)
    async with AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=MOST_SECONDS
    ) as client:

        async def one(prompt: str) -> Streamed:
            async with gate:
                return await stream(client, prompt, **options)

        return await asyncio.gather(*map(one, prompts))


async def hang_up(url: str, prompts: Sequence[str], at_once: int, seed: int = 0) -> int:
    """Ask, and go away after some bytes or none.

    Returns how many did.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    chance, gate = random.Random(seed), asyncio.Semaphore(at_once)

    async def one(prompt: str, after: float, streamed: bool) -> None:
        asked = {
            "model": "steer",
            "messages": [{"role": "user", "content": prompt}],
            "stream": streamed,
        }
        body = json.dumps(asked).encode()
        async with gate:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            await writer.drain()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(1 + int(2000 * after)), after)
            writer.close()

    await asyncio.gather(
        *(one(prompt, chance.random() * 0.3, chance.random() < 0.7) for prompt in prompts)
    )
    return len(prompts)


async def metric(url: str, name: str) -> float:
    """The sum of a metric over its labels."""

    def fetched() -> str:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as found:
            return str(found.read().decode())

    lines = (await asyncio.to_thread(fetched)).splitlines()
    values = [
        line.rsplit(" ", 1)[1] for line in lines if line.startswith((f"{name}{{", f"{name} "))
    ]
    return sum(map(float, values))
