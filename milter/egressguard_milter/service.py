"""Puts the relay's parts together, in the order in which none of them can be met half made."""

import sys
import time
from pathlib import Path

from egressguard.boot import boot_id
from egressguard.core.exchange_url import SqlitePlace, parse
from egressguard.exchange import open_exchange
from egressguard.metrics_endpoint import serve
from egressguard.service_manager import notify
from egressguard_milter.answers import Answers
from egressguard_milter.control import Control
from egressguard_milter.conversation import Conversation
from egressguard_milter.endpoint import Endpoint, listen, parse_endpoint, watched
from egressguard_milter.journal import line, logger
from egressguard_milter.ledger import Ledger
from egressguard_milter.limits import Limits
from egressguard_milter.link import Link
from egressguard_milter.log import DecisionLog
from egressguard_milter.marks import Marks
from egressguard_milter.metrics import collector
from egressguard_milter.mistakes import read_policy
from egressguard_milter.policy import Policy
from egressguard_milter.reports import Reports
from egressguard_milter.room import Room
from egressguard_milter.segments import Segments, SegmentsError
from egressguard_milter.server import Server, signal_socket
from egressguard_milter.signals import Signals
from egressguard_milter.tallies import Tallies
from egressguard_milter.watch import Watch

# Another thread that has the interpreter gives it back to the decisions after so long at the latest.
SWITCH_INTERVAL_S = 0.001
# A poll of the exchange that takes longer has hung: a busy database is waited for, but not that long.
HUNG_S = 30.0


def run(path: Path) -> None:
    """Serves the MTA until a stop signal.

    Raises ConfigError, ListenError, or SegmentsError when another process keeps its counts in our folder.
    """
    room = Room()
    policy = room.fitted(read_policy(path))
    stop_signals = signal_socket()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    endpoint = parse_endpoint(policy.socket)
    listener, socket_fault = listen(endpoint), watched(endpoint)
    room.say()
    tallies, memory = Tallies(), _memory(policy)
    marks = Marks(policy.state_folder, boot_id())
    signals = Signals(marks.found)
    ledger = _ledger(policy, memory)
    _remember(ledger, memory, policy)
    limits = Limits(policy, ledger, signals.state)
    reports = Reports(marks.epoch, limits, tallies, signals)
    watch = Watch(limits, signals, reports, Link(lambda: open_exchange(policy.exchange, policy.exchange_key)),
                  lambda now_s: _upkeep(ledger, memory, limits, marks, signals, now_s))
    log = DecisionLog()
    server = Server([listener], lambda: Conversation(limits, tallies, log), stop_signals,
                    lambda now_s: _pulse(watch, now_s), room.waiting)
    answers = Answers(limits, ledger, tallies, signals, lambda: _reread(path, room),
                      lambda now_s: [socket_fault(), _fault(memory, ledger, policy.state_folder),
                                     limits.fault(now_s), server.fault(now_s)], lambda: room.fault)
    control = _control(policy, answers) if memory else None
    serve(policy.metrics, collector(answers.status, tallies.by_limit))
    watch.safe_step()  # the verdicts are in force before the first message
    watch.start()
    _say_started(policy, endpoint, memory)
    notify("READY=1")
    reason = server.serve()
    _last_steps(watch, endpoint, control)
    logger.info(line("stopped", reason=reason))


def _reread(path: Path, room: Room) -> Policy:
    policy = room.fitted(read_policy(path))
    room.say()
    return policy


def _ledger(policy: Policy, memory: Segments | None) -> Ledger:
    """The ledger; with several relays and a server between them, one whose budgets they share."""
    place = parse(policy.exchange)
    if policy.relays == 1 or isinstance(place, SqlitePlace):
        return Ledger(policy.horizon_s, policy.max_clients, memory)
    from egressguard_milter.budgets import HERE_S, Budgets  # the client library is slow to import
    from egressguard_milter.last_life import LifeFile
    from egressguard_milter.shared_ledger import SharedLedger

    budgets = Budgets(place, policy.relay, policy.relays, max(HERE_S, 3 * policy.signal_poll_s),
                      last=LifeFile(policy.state_folder))
    return SharedLedger(policy.horizon_s, policy.max_clients, memory, budgets, policy.relays)


def _memory(policy: Policy) -> Segments | None:
    """The durable counts. Without a folder for them limits hold all the same, but not over a restart."""
    try:
        return Segments(policy.state_folder, boot_id())
    except SegmentsError as error:
        if error.busy:
            raise
        logger.error(line("counts_not_durable", reason=error, effect="limits hold until the next restart"))
        return None


def _remember(ledger: Ledger, memory: Segments | None, policy: Policy) -> None:
    if memory is not None:
        now_s = time.monotonic()
        records = memory.load(policy.horizon_s, now_s)
        ledger.remember(records, now_s)
        logger.info(line("remembered", records=len(records), keys=len(ledger)))


def _upkeep(ledger: Ledger, memory: Segments | None, limits: Limits, marks: Marks,
            signals: Signals, now_s: float) -> None:
    ledger.sweep(now_s)
    ledger.tend(now_s)
    marks.keep(signals.marks, now_s)
    if memory is not None:
        memory.maintain(limits.policy.horizon_s, now_s)


def _pulse(watch: Watch, now_s: float) -> None:
    """Told to systemd by the thread that decides, and only while the other one goes on, too."""
    if now_s - watch.stepped_s < HUNG_S:
        notify("WATCHDOG=1")


def _fault(memory: Segments | None, ledger: Ledger, folder: Path) -> str:
    if memory is None:
        return f"counts are not durable: the state folder {folder} cannot be used"
    return f"counts are not durable: {memory.failed}" if memory.failed else ledger.fault


def _control(policy: Policy, answers: Answers) -> Control | None:
    try:
        control = Control(policy.control_path, answers.answer)
    except OSError as error:
        logger.error(line("control_unavailable", path=policy.control_path, reason=error))
        return None
    control.start()
    return control


def _last_steps(watch: Watch, endpoint: Endpoint, control: Control | None) -> None:
    notify("STOPPING=1")
    if endpoint.path is not None:
        endpoint.path.unlink(missing_ok=True)
    if control is not None:
        control.close()
    watch.stop()


def _say_started(policy: Policy, endpoint: Endpoint, memory: Segments | None) -> None:
    logger.info(line("started", relay=policy.relay, socket=endpoint.connection,
                     messages=policy.limits.messages, window_s=policy.limits.window_s,
                     exchange=policy.exchange, state=policy.state_folder, durable=memory is not None))
