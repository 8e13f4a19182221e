"""A server that accepts connections and then sends one byte every 50 ms, or nothing, for ever."""

import socket
import threading

from lab.closing import Closing

PAUSE_S = 0.05


class Dripping(Closing):
    """Listens on loopback, from construction to close(); `sent` counts the bytes."""

    def __init__(self, byte: bytes) -> None:
        self.sent = 0
        self._byte, self._stopping = byte, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._drip(connection)

    def _drip(self, connection: socket.socket) -> None:
        while not self._stopping.wait(PAUSE_S):
            try:
                self.sent += connection.send(self._byte) if self._byte else 0
            except OSError:
                return

    def close(self) -> None:
        """Ends it."""
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
