"""Clients that never give up a message before it is accepted, as a queueing MTA does."""

import queue
import smtplib
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from lab.namespaces import Namespace

RETRY_S = 0.15
REPLY_S = 30.0
PER_CONNECTION = 3
PATIENCE_S = 600.0


class Senders:
    """`parallel` threads that send messages from `namespace` to its own port 25."""

    def __init__(self, namespace: Namespace, *, parallel: int) -> None:
        self._namespace, self._parallel = namespace, parallel
        self._waiting: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        self.accepted: Counter[str] = Counter()
        self.permanent: list[str] = []
        self.temporary = 0

    def send(self, names: Iterable[str]) -> None:
        """Returns when every message, named in its subject, was accepted, refused for good, or gave up."""
        for name in names:
            self._waiting.put(name)
        deadline = time.monotonic() + PATIENCE_S
        threads = [threading.Thread(target=self._namespace.call, args=(self._work, server, deadline))
                   for server, _ in zip(("127.0.0.1", "::1") * self._parallel, range(self._parallel), strict=False)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, server: str, deadline: float) -> None:
        while time.monotonic() < deadline:
            batch = self._take()
            if not batch:
                return
            self._session(server, batch)
            for name in batch:  # not accepted: back into the queue
                self._waiting.put(name)
            time.sleep(RETRY_S if batch else 0)

    def _take(self) -> list[str]:
        batch: list[str] = []
        with suppress(queue.Empty):
            while len(batch) < PER_CONNECTION:
                batch.append(self._waiting.get_nowait())
        return batch

    def _session(self, server: str, batch: list[str]) -> None:
        """Takes from `batch` what is settled, one way or the other."""
        smtp = smtplib.SMTP(timeout=REPLY_S, local_hostname="client.example")
        try:
            self._expect(smtp.connect(server, 25), 220)
            self._expect(smtp.ehlo(), 250)
            while batch:
                self._message(smtp, batch[-1])
                batch.pop()
            smtp.quit()
        except _PermanentError as error:
            with self._lock:
                self.permanent.append(f"{batch.pop() if batch else ''}: {error}")
        except (OSError, smtplib.SMTPException):
            with self._lock:
                self.temporary += 1
        finally:
            smtp.close()

    def _message(self, smtp: smtplib.SMTP, name: str) -> None:
        if name.endswith(("0", "4", "8")):  # a client that changes its mind, for the milter's abort
            self._expect(smtp.mail("sender@inside.example"), 250)
            self._expect(smtp.rset(), 250)
        self._expect(smtp.mail("sender@inside.example"), 250)
        self._expect(smtp.rcpt("somebody@outside.example"), 250)
        self._expect(smtp.data(f"Subject: {name}\r\n\r\nThis is one.\r\n"), 250)
        with self._lock:
            self.accepted[name] += 1

    def _expect(self, reply: tuple[int, bytes], code: int) -> None:
        if reply[0] // 100 == 5:
            raise _PermanentError(reply)
        if reply[0] != code:
            raise smtplib.SMTPResponseException(reply[0], reply[1])


class _PermanentError(Exception):
    """A reply that makes a mailer give up."""
