"""No fault of the milter loses a message, makes a refusal permanent, or lets a message pass without it.

A proxy breaks the milter protocol at each of its steps, on both MTAs; clients try again as a queue does, and
the sink shows what arrived. `--full` sends the promised number of messages through each MTA.
"""

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.milter_proxy import KINDS, MALFORMED_REPLY, Fault, Kind, MilterProxy
from lab.namespaces import Namespace, wait_until
from lab.sink import Sink
from tests.promises import promise
from tests.relay import mtas
from tests.relay.running import Milter
from tests.relay.senders import Senders

PROXY_PORT, MILTER_PORT, SINK_PORT = 8892, 8893, 2525
SLOW_S, STOPPED_S, DEAD_S = 2.0, 1.5, 0.2
# The same parameters as printed, with timeouts that a test can wait for.
POSTFIX_TIMEOUTS = {"smtpd_milters": "{ inet:127.0.0.1:8892, default_action=tempfail, connect_timeout=1s, "
                                     "command_timeout=1s, content_timeout=1s }"}
SENDMAIL_TIMEOUTS = {"T=C:2s;S:3s;R:3s;E:5s": "T=C:1s;S:1s;R:1s;E:1s"}
SETTINGS = {"postfix": POSTFIX_TIMEOUTS, "sendmail": SENDMAIL_TIMEOUTS}
ALWAYS_SEEN = "OCME"  # what no milter that counts messages can do without


class Patient:
    """A milter that is started again after it was killed, and goes on after it was stopped."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self._namespace, self._folder, self._starts = namespace, folder, 0
        self._lock = threading.Lock()
        self._milter = self._start()

    def kill(self) -> None:
        """Ends it as the kernel would; a supervisor starts it again a little later."""
        with self._lock:
            self._milter.process.kill()
            self._milter.process.wait()
            time.sleep(DEAD_S)
            self._milter = self._start()

    def stop(self) -> None:
        """It does not answer for a while, but its sockets do."""
        process = self._milter.process
        process.send_signal(signal.SIGSTOP)
        threading.Timer(STOPPED_S, process.send_signal, [signal.SIGCONT]).start()

    def close(self) -> None:
        """Ends it for good."""
        self._milter.process.kill()
        self._milter.process.wait()

    def _start(self) -> Milter:
        self._starts += 1
        milter = Milter(self._namespace, self._folder / f"milter-{self._starts}", (
            f'relay = "relay"\nsocket = "inet:{MILTER_PORT}@127.0.0.1"\n'
            f'exchange = "sqlite:{self._folder}/exchange.db"\nstate = "{self._folder}/state"\n[limits]\nmessages = 100000\nwindow_s = 600.0\n'))
        milter.wait_for_log("event=started")
        return milter


class Bench:
    """One MTA with a proxy before its milter, senders before it and a sink behind it."""

    def __init__(self, mta: str, folder: Path, settings: Mapping[str, str]) -> None:
        with contextlib.ExitStack() as stack:
            self.namespace = stack.enter_context(Namespace("relay"))
            self.sink = stack.enter_context(Sink(self.namespace, port=SINK_PORT))
            self.milter = stack.enter_context(contextlib.closing(Patient(self.namespace, folder)))
            self.proxy = stack.enter_context(contextlib.closing(
                MilterProxy(self.namespace, PROXY_PORT, MILTER_PORT)))
            self.mta = mtas.relay(mta, self.namespace, "192.0.2.0/24", next_hop="127.0.0.1", port=SINK_PORT,
                                  settings=settings)
            stack.callback(self.mta.close)
            self.senders = Senders(self.namespace, parallel=16)
            self._names: list[str] = []
            self.duplicates = 0
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def suffer(self, kind: Kind, messages: int, hits_per_step: int, **more: Any) -> None:
        """Sends messages while the milter suffers."""
        names = [f"{kind}-{n}" for n in range(messages)]
        self._names += names
        act = {"kill": self.milter.kill, "stop": self.milter.stop}.get(kind, lambda: None)
        self.proxy.arm(Fault(kind, delay_s=SLOW_S, act=act, **more), hits_per_step)
        self.senders.send(names)
        self.proxy.disarm()

    def verdict(self) -> None:
        """Nothing lost, nothing permanent, nothing past the milter."""
        assert self.senders.permanent == [], "permanent failures"
        missing = set(self._names) - set(self.senders.accepted)
        assert not missing, f"{len(missing)} messages were never accepted"
        arrived = self._arrived()
        assert not set(self._names) - set(arrived), "accepted and lost"
        assert set(arrived) == set(self._names), "bounces"
        self.duplicates = arrived.total() - len(arrived)
        passed = arrived.total() - self.proxy.permissions
        assert passed <= 0, f"{passed} messages passed without the milter's consent"

    def _arrived(self) -> Counter[str]:
        wait_until(lambda: self.mta.queued() == 0, "the relay's queue to be empty", timeout_s=300)
        return Counter(message.subject for message in self.sink.messages())


@contextlib.contextmanager
def bench(mta: str, folder: Path, settings: Mapping[str, str]) -> Iterator[Bench]:
    with contextlib.closing(Bench(mta, folder, settings)) as running:
        yield running


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("mta", mtas.MTAS)
def test_no_fault_at_any_step_loses_or_refuses_a_message_or_lets_one_past(
        mta: str, tmp_path: Path, full: bool) -> None:
    messages, hits = (1500, 20) if full else (24, 1)
    with bench(mta, tmp_path, SETTINGS[mta]) as running:
        for kind in KINDS:
            running.suffer(kind, messages, hits)
        running.verdict()
        missed = [(kind, step) for kind in KINDS for step in ALWAYS_SEEN if not running.proxy.hits[kind, step]]
        print(f"{mta}: {len(running.senders.accepted)} messages, {running.proxy.hits.total()} faults at "  # noqa: T201
              f"{sorted({s for _, s in running.proxy.hits})}, {running.senders.temporary} temporary failures, "
              f"{running.duplicates} duplicates, 0 lost, 0 permanent")
    assert not missed, f"{missed} were never tried"
    size = f"{len(KINDS) * messages} messages, {running.proxy.hits.total()} faults at " \
           f"{len({step for _, step in running.proxy.hits})} protocol steps"
    for what in ("lost", "refused for good", "passed without the milter's consent"):
        promise(8, f"messages {what} while the milter is killed, stopped, cut off, garbled, slow or absent, {mta}", 0, 0,
                size)


MUTANTS = {
    "postfix": {"smtpd_milters": POSTFIX_TIMEOUTS["smtpd_milters"].replace("tempfail", "accept")},
    "sendmail": {**SENDMAIL_TIMEOUTS, "F=T, ": ""},
}


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("mta", mtas.MTAS)
def test_with_the_default_action_accept_this_suite_fails(mta: str, tmp_path: Path) -> None:
    with bench(mta, tmp_path, MUTANTS[mta]) as running:
        running.suffer("cut", 24, 2)
        with pytest.raises(AssertionError, match="passed without the milter's consent"):
            running.verdict()


REJECTING = {
    "postfix": {"smtpd_milters": POSTFIX_TIMEOUTS["smtpd_milters"].replace("tempfail", "reject")},
    "sendmail": {**SENDMAIL_TIMEOUTS, "F=T, ": "F=R, "},
}


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("mta", mtas.MTAS)
def test_with_the_default_action_reject_this_suite_fails(mta: str, tmp_path: Path) -> None:
    with bench(mta, tmp_path, REJECTING[mta]) as running:
        running.suffer("cut", 24, 2)
        with pytest.raises(AssertionError, match="permanent failures"):
            running.verdict()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("mta", mtas.MTAS)
def test_a_reply_with_a_code_that_is_none_is_final_in_sendmail_so_the_milter_must_never_send_one(
        mta: str, tmp_path: Path) -> None:
    with bench(mta, tmp_path, SETTINGS[mta]) as running:
        running.suffer("garble", 24, 2, garbage=(MALFORMED_REPLY,))
        assert bool(running.senders.permanent) == (mta == "sendmail")
