"""Messages between the coordinator and its children: JSON lines over a socket pair; a descriptor may ride along."""

import array
import json
import os
import select
import socket
import time
from dataclasses import dataclass, field

from jitterprof.errors import (
    BackendUnavailable,
    JitterprofError,
    MeasurementInvalid,
    ProbeUnavailable,
    RunFileError,
    SpecError,
    UnsupportedError,
)

_ERRORS: dict[str, type[JitterprofError]] = {
    error.__name__: error
    for error in (
        JitterprofError,
        SpecError,
        UnsupportedError,
        ProbeUnavailable,
        BackendUnavailable,
        MeasurementInvalid,
        RunFileError,
    )
}


@dataclass(frozen=True, slots=True)
class Message:
    """`kind` says what it is; `body` is JSON. `fd`: a descriptor that came along, -1 if none."""

    kind: str
    body: dict[str, object] = field(default_factory=dict)
    fd: int = -1


class Channel:
    """One end. `receive` raises EOFError when the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = b""
        self._fds: list[int] = []

    def fileno(self) -> int:
        """For select and poll."""
        return self._socket.fileno()

    def send(self, kind: str, fd: int = -1, **body: object) -> None:
        """One message. A peer that has gone is no error here: whoever waits for it will notice."""
        line = json.dumps({"kind": kind, **body}).encode() + b"\n"
        try:
            if fd >= 0:
                socket.send_fds(self._socket, [line], [fd])
            else:
                self._socket.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def send_error(self, error: JitterprofError) -> None:
        """The error as a message; `raise_error` on the other side raises it again."""
        self.send("error", type=type(error).__name__, message=error.message, hint=error.hint)

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message, or None when none came in time."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                return None
            data, ancillary, _, _ = self._socket.recvmsg(1 << 16, socket.CMSG_SPACE(array.array("i").itemsize))
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    self._fds += array.array("i", content[: array.array("i").itemsize]).tolist()
            if not data:
                raise EOFError
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        body = json.loads(line)
        name = body.pop("kind")
        return Message(name, body, self._fds.pop(0) if body.get("with_fd") and self._fds else -1)

    def close(self) -> None:
        """Close this end; descriptors that nobody took go too."""
        while self._fds:
            os.close(self._fds.pop())
        self._socket.close()


def raise_error(message: Message) -> None:
    """Raise the error that a child sent."""
    error = _ERRORS.get(str(message.body.get("type")), JitterprofError)
    raise error(str(message.body.get("message")), str(message.body.get("hint", "")))
