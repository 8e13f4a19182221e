"""The control socket: one request a connection, from root or from the daemon's own user, and nobody else.

One thread, with a time limit on each caller, so that no caller can hold up another for long, and none of
them the decisions.
"""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from egressguard.core.errors import EgressguardError
from egressguard_milter.journal import line, logger
from egressguard_milter.requests import MAX_LENGTH, Request, parse_request

CALLER_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 30.0
PEER = struct.Struct("=iII")  # struct ucred of unix(7): pid, uid, gid


class ControlError(EgressguardError):
    """The running milter could not be asked."""


class Control:
    """Serves `answer` on a unix socket."""

    def __init__(self, path: Path, answer: Callable[[Request, float], dict[str, Any]]) -> None:
        """Raises OSError when the socket cannot be made."""
        self._path, self._answer = path, answer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        path.unlink(missing_ok=True)  # the folder's lock is ours, so its socket is nobody's
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen(16)

    def start(self) -> None:
        """Begins to answer."""
        threading.Thread(target=self._serve, name="control", daemon=True).start()

    def close(self) -> None:
        """Removes the socket."""
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                time.sleep(0.1)  # out of descriptors: let others close theirs
                continue
            with caller:
                try:
                    self._serve_one(caller)
                except OSError:
                    pass  # a caller that hung up or was too slow
                except Exception:
                    logger.exception(line("control_failed"))

    def _serve_one(self, caller: socket.socket) -> None:
        _, uid, _ = PEER.unpack(caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
        if uid not in (0, os.geteuid()):
            logger.warning(line("control_denied", uid=uid))
            answer: dict[str, Any] = {"error": "only root and the daemon's own user may ask"}
        else:
            answer = self._answered(_read_line(caller))
        caller.settimeout(CALLER_TIMEOUT_S)
        caller.sendall(json.dumps(answer).encode() + b"\n")
        with suppress(BlockingIOError):  # closing over unread words would take the answer away again
            caller.setblocking(False)
            caller.recv(MAX_LENGTH)

    def _answered(self, request: bytes) -> dict[str, Any]:
        try:
            return self._answer(parse_request(request), time.monotonic())
        except ValueError as error:
            return {"error": str(error)}


def _read_line(caller: socket.socket) -> bytes:
    """Up to the end of the line; the time limit is for all of it, not for each piece."""
    data, deadline_s = b"", time.monotonic() + CALLER_TIMEOUT_S
    while b"\n" not in data and len(data) <= MAX_LENGTH:
        caller.settimeout(max(0.01, deadline_s - time.monotonic()))
        piece = caller.recv(MAX_LENGTH)
        if not piece or time.monotonic() > deadline_s:
            break
        data += piece
    return data.partition(b"\n")[0]


def ask(path: Path, request: bytes) -> dict[str, Any]:
    """The answer of the milter behind `path`. Raises ControlError."""
    data = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as milter:
            milter.settimeout(ANSWER_TIMEOUT_S)
            milter.connect(str(path))
            milter.sendall(request)
            while piece := milter.recv(65536):
                data += piece
        answer: dict[str, Any] = json.loads(data)
    except OSError as error:
        raise ControlError(f"no milter answers at {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ControlError(f"the milter at {path} gave no answer") from error
    if "error" in answer:
        raise ControlError(str(answer["error"]))
    return answer
