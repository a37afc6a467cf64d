"""The log of a command that runs for long."""

from __future__ import annotations

import logging

from . import say


class _Stderr(logging.Handler):
    """Writes to what is standard error at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say.log(self.format(record))
        except Exception:
            self.handleError(record)


def log_to_stderr() -> None:
    """Let the server's log go to standard error, printable."""
    log = logging.getLogger("steer.serve")
    if any(isinstance(handler, _Stderr) for handler in log.handlers):
        return  # of a command before, in this process
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("uvicorn").addHandler(handler)
