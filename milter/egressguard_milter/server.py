"""The only file with the MTA's sockets: one thread and epoll, so that no lock stands in a decision's way.

With libmilter's threads each step waits for the interpreter's lock, the longer the more connections there
are (docs/architecture.md).
Nothing here may wait for anything but the MTAs.
"""

import select
import signal
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress

from egressguard_milter.conversation import Conversation
from egressguard_milter.journal import Repetitions, line, logger
from egressguard_milter.waiting import Waiting
from egressguard_milter.wire import WireError

READ_BYTES = 4096  # what an MTA says at once; whoever says more waits for its turn again
IDLE_S = 7210.0  # libmilter's limit: an MTA that is silent for two hours is gone
NOBODY_S = 60.0  # an MTA names the client at once, and has no use for one that was not let in
MOST_WAITING = 4096  # connections without a client that was let in, unless there is less room
RECENT_S = 60.0  # for so long a status names what went wrong
TICK_S = 1.0
MOST_DUE = 16  # answers that wait for each other
MOST_ACCEPTED = 64  # connections taken at once, so that the others do not wait
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Server:
    """Serves MTAs on `listeners` until a stop signal comes."""

    def __init__(self, listeners: Sequence[socket.socket], converse: Callable[[], Conversation],
                 signals: socket.socket, pulse: Callable[[float], None] = lambda now_s: None,
                 most_waiting: int = MOST_WAITING) -> None:
        """`signals` becomes readable when a signal has come: see `signal_socket`.

        `pulse` is called each second. Of more than `most_waiting` connections whose client is not named or
        was not let in, the oldest goes: the caps of the clients do not know them.
        """
        self._converse, self._signals, self._pulse = converse, signals, pulse
        self._poll = select.epoll()
        self._ready: dict[int, Callable[[], None]] = {}
        self._peers: dict[int, Peer] = {}
        self._waiting: OrderedDict[int, Peer] = OrderedDict()  # or was, when last looked at; the oldest first
        self._most_waiting = most_waiting
        self._trouble, self._trouble_s = "", float("-inf")
        self._listeners = listeners
        self._complaints = Repetitions()
        self._paused: list[socket.socket] = []
        self._due: list[Peer] = []
        # Its answer is sent with those of others, as each may wake a process that wants our processor.
        self.answer_soon = self._due.append
        self._tick_at_s = 0.0
        self.stopped = ""
        self._watch(signals, self._stop)
        for listener in listeners:
            self._watch(listener, lambda listener=listener: self._accept(listener))  # type: ignore[misc]

    def serve(self) -> str:
        """Answers MTAs; returns the name of the signal that ended it."""
        ready, due, clock = self._ready, self._due, time.monotonic
        wait = Waiting(self._poll.poll).wait
        while not self.stopped:
            for fd, _ in wait(TICK_S):
                ready[fd]()
                if len(due) == MOST_DUE:
                    self._answer_due()
            self._answer_due()
            while len(self._waiting) > self._most_waiting:
                self._end_oldest_waiting()
            if clock() >= self._tick_at_s:
                self._tick(clock())
        self._close()
        return self.stopped

    def complain(self, reason: str) -> None:
        """Says what an MTA did wrong, each kind once a minute."""
        suppressed = self._complaints.suppressed(reason, time.monotonic())
        if suppressed is not None:
            logger.warning(line("mta_failed", reason=reason, suppressed=suppressed))

    def fault(self, now_s: float) -> str:
        """What kept an MTA from being heard a short while ago; empty: nothing."""
        return self._trouble if now_s - self._trouble_s <= RECENT_S else ""

    def forget(self, fd: int) -> None:
        """A peer is gone."""
        self._poll.unregister(fd)
        self._waiting.pop(fd, None)
        del self._ready[fd], self._peers[fd]

    def _answer_due(self) -> None:
        for peer in self._due:
            peer.answer()
        self._due.clear()

    def _end_oldest_waiting(self) -> None:
        _, peer = self._waiting.popitem(last=False)
        if not peer.let_in:
            self._in_trouble("too many connections without a client that was let in: the oldest go")
            peer.end()

    def _in_trouble(self, reason: str) -> None:
        self._trouble, self._trouble_s = reason, time.monotonic()
        self.complain(reason)

    def _watch(self, what: socket.socket, ready: Callable[[], None]) -> None:
        what.setblocking(False)
        self._ready[what.fileno()] = ready
        self._poll.register(what, select.EPOLLIN)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(MOST_ACCEPTED):
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # most likely out of descriptors: asked again at the next tick only
                self._in_trouble(f"cannot take a connection: {error.strerror}")
                self._poll.modify(listener, 0)
                self._paused.append(listener)
                return
            peer = self._peers[connection.fileno()] = Peer(self, connection, self._converse())
            self._waiting[connection.fileno()] = peer
            self._watch(connection, peer.ready)

    def _stop(self) -> None:
        with suppress(BlockingIOError):
            self.stopped = signal.Signals(self._signals.recv(1)[0]).name

    def _close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for peer in list(self._peers.values()):
            peer.end()
        self._poll.close()
        self._signals.close()

    def _tick(self, now_s: float) -> None:
        self._tick_at_s = now_s + TICK_S
        self._pulse(now_s)
        while self._paused:
            self._poll.modify(self._paused.pop(), select.EPOLLIN)
        for peer in list(self._peers.values()):
            if peer.spoke:
                peer.spoke, peer.heard_s = False, now_s
            elif peer.heard_s < now_s - (IDLE_S if peer.let_in else NOBODY_S):
                peer.end()


class Peer:
    """One connection from an MTA."""

    def __init__(self, server: Server, connection: socket.socket, conversation: Conversation) -> None:
        self._server, self._connection, self._conversation = server, connection, conversation
        self._receive, self._send, self._hear = connection.recv, connection.send, conversation.hear
        self._tcp = connection.family != socket.AF_UNIX
        self._answer_soon = server.answer_soon
        self._answers = b""
        self.spoke, self.heard_s = True, 0.0  # since the last tick; at which tick it had spoken
        if self._tcp:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def let_in(self) -> bool:
        """Whether it speaks for a client that was let in."""
        return self._conversation.let_in

    def ready(self) -> None:
        """Something was said, or the MTA is gone."""
        try:
            data = self._receive(READ_BYTES)
            self._answers = self._hear(data)
            if not data or self._conversation.ended:
                self._tell()
                self.end()
            elif self._answers:
                self._answer_soon(self)
            elif self._tcp:
                # Postfix says nothing more before this is acknowledged (Nagle), and the kernel would wait for
                # an answer to send the acknowledgement with: 40 ms for each message.
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        except WireError as error:
            self._server.complain(str(error))
            self.end()
        except OSError:
            self.end()

    def answer(self) -> None:
        """Sends what is due."""
        try:
            self._tell()
            self.spoke = True
        except WireError as error:
            self._server.complain(str(error))
            self.end()
        except OSError:
            self.end()

    def _tell(self) -> None:
        # An MTA waits for each answer, so the kernel has room for it.
        if self._answers and self._send(self._answers) != len(self._answers):
            raise WireError("answers that nobody reads")

    def end(self) -> None:
        """Hangs up, when what was reserved has been given back."""
        self._conversation.close()
        self._server.forget(self._connection.fileno())
        self._connection.close()


def signal_socket() -> socket.socket:
    """Readable from now on when a stop signal came, which then does nothing else."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach())
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    return reader
