"""`make demo-serve`: a server from its start to its end, with the official client and a picture.

    PYTHONPATH=tests python benchmarks/demo_serve.py --picture build/serving-page.png

It starts `steer serve` with the demo pair on a free port, asks a question through the client of
OpenAI, shows the answer as it comes with who wrote what and what was taken back, sets its costs
beside those of the large model alone, takes a picture of the page where there is a Chromium, and
ends the server with SIGTERM. The status is 0 if all of that went well.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.table import Table
from rich.text import Text
from steer_decode.util.palette import COLOURS
from steer_decode.util.text import printable
from support.browser import CHROMIUM, MISSING, Browser

QUESTION = "Compute 16 /8 *4 /2 *9 /3 ?"
COSTS = {
    "flops_paper": "FLOPs, as papers count",
    "flops_processed": "FLOPs processed",
    "bytes_read": "bytes read",
    "seconds": "seconds",
}
WIDTH, HEIGHT = 1060, 800  # of the picture, at least


def main() -> int:
    """Runs the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--picture", type=Path, default=Path("build/serving-page.png"))
    options = parser.parse_args()
    console = Console(highlight=False)
    with server(console) as (process, url):
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        console.print("\nmodels:", ", ".join(model.id for model in client.models.list()))
        console.print(Text(f"question: {printable(options.question)}\n"))
        routed = ask(client, "steer", options.question, console)
        large = ask(client, "large", options.question, None)
        console.print(costs(routed, large))
        picture(url, options.question, options.picture, console)
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    console.print(f"the server has ended with status {status}")
    return status


@contextmanager
def server(console: Console) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port, and where it listens; killed if it is still there at the end."""
    command = [sys.executable, "-m", "steer_decode", "serve", "--pair", "demo", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                console.print(Text(line.rstrip()), soft_wrap=True)
                if found := re.search(r"at (http://\S+)", line):
                    # Its log is read on, or it would stand still once the pipe is full.
                    threading.Thread(target=process.stderr.read, daemon=True).start()
                    yield process, found[1]
                    return
            raise SystemExit("demo-serve: the server has not started")
        finally:
            if process.poll() is None:
                process.kill()


def ask(client: OpenAI, model: str, question: str, console: Console | None) -> dict[str, Any]:
    """What routing has done for an answer, which is shown as it comes where there is a console."""
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"steer": {"trace": True}},
    )
    shown, usage = Steps(console), None
    for chunk in stream:
        extra = (chunk.model_extra or {}).get("steer") or {}
        for piece in extra.get("pieces", []):
            shown.piece(piece)
        if "step" in extra:
            shown.close(extra["step"])
        usage = chunk.usage or usage
    assert usage is not None
    return dict(usage.model_extra or {})["steer"]


class Steps:
    """Shows steps as they come: S and L say whose the text behind them is."""

    def __init__(self, console: Console | None) -> None:
        self._console, self._writer = console, ""

    def piece(self, piece: dict[str, Any]) -> None:
        """Text that stays."""
        writer = piece["writer"]
        mark = "" if writer == self._writer else f"{' ' * bool(self._writer)}{writer[0].upper()} "
        self._writer = writer
        style = f"{COLOURS[writer].terminal}{' bold' if writer == 'large' else ''}"
        self._print(f"{mark}{printable(piece['text'].rstrip())}", style)

    def close(self, step: dict[str, Any]) -> None:
        """The end of a step, or a step that was taken back."""
        if step["discarded"]:
            back = printable(step["text"].strip())
            self._print(f"{step['writer'][0].upper()} {back}", "strike dim")
            self._print("  (taken back)")
        score = "" if step["score"] is None else f"{step['score']:.2f}"
        self._print(f"  {score}\n", "dim")
        self._writer = ""

    def _print(self, text: str, style: str = "") -> None:
        if self._console is not None:
            self._console.print(Text(text, style), end="", soft_wrap=True)
            self._console.file.flush()


def costs(routed: dict[str, Any], large: dict[str, Any]) -> Table:
    """The four costs of an answer beside those of the large model alone."""
    table = Table("cost", "routed", "large alone", "ratio", title=routed["router"])
    for name, title in COSTS.items():
        first, second = routed["cost"][name], large["cost"][name]
        table.add_row(title, f"{first:,.4g}", f"{second:,.4g}", f"{first / second:.2f}")
    return table


def picture(url: str, question: str, path: Path, console: Console) -> None:
    """A picture of the page with this question answered, where there is a browser."""
    if CHROMIUM is None:
        console.print(f"no picture of the page: {MISSING}")
        return
    with Browser() as browser, browser.page(WIDTH, HEIGHT) as page:
        page.open(url)
        page.until("document.getElementById('about').textContent !== ''")
        page.value("document.getElementById('question').focus()")
        page.type(question)
        page.press("Enter")
        page.until("document.body.dataset.state === 'idle'")
        if page.complaints:
            raise SystemExit(f"demo-serve: the page complains: {page.complaints}")
        path.parent.mkdir(parents=True, exist_ok=True)
        page.value("document.activeElement.blur()")
        page.screenshot(path)
    shrink(path)
    console.print(f"the page: {path}, {path.stat().st_size / 1000:.0f} kB")


def shrink(path: Path) -> None:
    """Store a picture in as few bytes as 128 colours take."""
    from PIL import Image

    with Image.open(path) as whole:
        small = whole.convert("RGB").quantize(128)
    small.save(path, optimize=True)


if __name__ == "__main__":
    raise SystemExit(main())
