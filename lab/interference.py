"""A TCP proxy on loopback that can be told to delay, to swallow, or to cut what passes through it."""

import socket
import threading
import time
from contextlib import suppress

from lab.closing import Closing

CHUNK = 65536


class Interference(Closing):
    """Passes connections to `port` of loopback on, from construction to close().

    `delay_s` holds every piece back that long; `swallows` accepts everything and passes nothing on.
    """

    def __init__(self, port: int) -> None:
        self.delay_s, self.swallows = 0.0, False
        self._target = port
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Ends every connection there is."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the proxy."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                return
            with server:
                server.settimeout(None)
                self._open |= {client, server}
                other = threading.Thread(target=self._pass, args=(server, client), daemon=True)
                other.start()
                self._pass(client, server)
                other.join()
                self._open -= {client, server}

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                time.sleep(self.delay_s)
                if not self.swallows:
                    sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
