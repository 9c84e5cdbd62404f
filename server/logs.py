"""Logging: one line a request, no text of prompts, answers or keys.

Loggers: `basemlx.access` (a line per request), `basemlx.server`, `basemlx.engine` (the `gen done` lines). Exceptions
are logged by type and place: their messages can quote what a client sent and are kept for DEBUG.
"""

import logging
import sys
import threading
import traceback

access_logger = logging.getLogger("basemlx.access")
server_logger = logging.getLogger("basemlx.server")

LEVELS = ("debug", "info", "warning", "error")
FRAMES_SHOWN = 12


def configure(level: str) -> None:
    """Sends basemlx's and uvicorn's records to stderr. `level` is one of LEVELS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("basemlx")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(level.upper())
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.handlers[:] = [handler]
    uvicorn.propagate = False
    uvicorn.setLevel(logging.DEBUG if level == "debug" else logging.ERROR)


def log_exception(what: str, request_id: str, error: BaseException) -> None:
    """Type and place at ERROR; the message, which may quote a request, only at DEBUG."""
    places = _places(traceback.extract_tb(error.__traceback__))
    server_logger.error("%s id=%s exception=%s at=%s", what, request_id, type(error).__name__, places)
    server_logger.debug("%s id=%s", what, request_id, exc_info=error)


def log_thread(what: str, thread_name: str) -> None:
    """Where the thread of that name is at this moment, at ERROR."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        if thread.name == thread_name and thread.ident in frames:
            server_logger.error("%s at=%s", what, _places(traceback.extract_stack(frames[thread.ident])))


def _places(stack: traceback.StackSummary) -> str:
    """Innermost first."""
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(stack[-FRAMES_SHOWN:]))
