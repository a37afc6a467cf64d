"""A headless Chromium that is driven over a pipe: what a page does, and what it complains of."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)
MISSING = "no Chromium (Debian: apt-get install chromium-headless-shell)"
PATIENCE = 120.0  # seconds for one reply; a machine may be slow and busy
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), "ArrowRight": (39, "")}


def command(profile: Path) -> list[str]:
    """The command that starts it, without a page."""
    flags = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
    new = [] if "headless-shell" in str(CHROMIUM) else ["--headless=new"]
    return [str(CHROMIUM), *flags, *new]


class Browser:
    """A browser process. A context manager; the process ends with it.

    It is spoken to by the DevTools protocol: JSON, a null byte behind each message, commands to its
    descriptor 3 and replies from 4. So no port is opened, and no library is needed.
    """

    def __enter__(self) -> Browser:
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        theirs, self._to = os.pipe()
        self._from, replies = os.pipe()
        devnull = os.open(os.devnull, os.O_RDWR)
        args = [*command(Path(self._folder.name)), "--remote-debugging-pipe", "about:blank"]
        # Above 4, so that neither is written over before it has been copied.
        read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs, replies))
        actions = [
            *((os.POSIX_SPAWN_DUP2, devnull, fd) for fd in (0, 1, 2)),
            (os.POSIX_SPAWN_DUP2, read, 3),
            (os.POSIX_SPAWN_DUP2, write, 4),
        ]
        self._process = os.posix_spawn(args[0], args, os.environ, file_actions=actions)
        for fd in (read, write, theirs, replies, devnull):
            os.close(fd)
        self._sent, self._read = 0, b""
        self.events: list[dict[str, Any]] = []
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self.call("Browser.close")
        else:
            os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._to)
        os.close(self._from)
        self._folder.cleanup()

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are kept."""
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive(method)
            if reply.get("id") == self._sent:
                assert "error" not in reply, (method, reply["error"])
                return dict(reply["result"])
            self.events.append(reply)

    def wait_for(self, event: str) -> None:
        """Wait until an event of this name has come since the last wait."""
        while not any(seen.get("method") == event for seen in self.events):
            self.events.append(self._receive(event))

    @contextmanager
    def page(self, width: int, height: int = 900, dark: bool = False) -> Iterator[Page]:
        """A page of its own, of this size in CSS pixels."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, session["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        size = {"width": width, "height": height}
        page.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def _receive(self, waiting: str) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{waiting}: the browser says nothing"
            data = os.read(self._from, 1 << 16)
            assert data, f"{waiting}: the browser has ended"
            self._read += data
        message, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(message))


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def open(self, url: str) -> None:
        """Go there, and wait until it has loaded."""
        self._browser.events.clear()
        self.call("Page.navigate", url=url)
        self._browser.wait_for("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; a promise is waited for."""
        result = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a change of the document makes an expression true."""
        self.value(
            "new Promise((done) => {"
            f"  const look = () => ({condition}) && (watch.disconnect(), done(true));"
            "  const watch = new MutationObserver(look);"
            "  watch.observe(document, {subtree: true, childList: true, attributes: true,"
            "    characterData: true});"
            "  look();"
            "})"
        )

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, shift: bool = False) -> None:
        """Press a key and let it go."""
        code, text = KEYS[key]
        told = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **told)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def complaints(self) -> list[str]:
        """Errors and breaches of the content security policy since the page was opened."""
        said = []
        for event in self._browser.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                said.append(str(params["exceptionDetails"]))
            elif event.get("method") == "Log.entryAdded":
                said.append(f"{params['entry']['level']}: {params['entry']['text']}")
            elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] == "error":
                said.append(str(params["args"]))
        return said
