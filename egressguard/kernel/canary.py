"""Sends the canary's SYN through the real forward path, and watches what becomes of it.

It flies in a helper process, which may change namespaces and has a second to live on: no round waits for it,
and however it ends, it leaves nothing behind (kernel/perch.py). Where nothing would refuse it, it stays.
"""

import ctypes
import fcntl
import json
import os
import secrets
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from ipaddress import ip_network
from pathlib import Path

from egressguard.core.canary import Fate, Flight, Run, Trace, judge, run_of
from egressguard.core.errors import EgressguardError, KernelError
from egressguard.core.hosts import Address, host_of
from egressguard.core.ruleset import INVENTORY, SMTP, STRANGERS, Element, Leases, Sets
from egressguard.core.settings import Settings
from egressguard.core.shards import shard_of
from egressguard.kernel import Netfilter
from egressguard.kernel.canary_packets import answer, syn, watch_outgoing
from egressguard.kernel.perch import ETH_P_ALL, MAC_BYTES, perch
from egressguard.ownership import make_beside

LOCK = "canary.lock"
ANSWER_S = 0.4       # a refusal takes microseconds; an answer from outside one round trip
LOCK_S = 2.0
LIFETIME_S = 6       # of the helper process, whatever happens
PR_SET_PDEATHSIG = 1
PROTOCOL = {4: "ipv4", 6: "ipv6"}
FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}


class Canary:
    """A canary in the air."""

    def __init__(self, settings: Settings) -> None:
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _child(writer, settings, parent)
        os.close(writer)

    def landed(self, wait_s: float = 0.0) -> Run | None:
        """Its run, once it is back; None while it flies. Raises KernelError when it was lost."""
        if not select.select([self._reader], [], [], wait_s)[0]:
            return None
        with os.fdopen(self._reader, encoding="utf-8") as pipe:
            text = pipe.read()
        os.waitpid(self.pid, 0)
        if not text.startswith("{"):
            raise KernelError(text or "the canary's process died")
        run = run_of(json.loads(text))
        if run is None:
            raise KernelError("the canary's process said nothing")
        return run

    def shoot(self) -> None:
        """Ends a flight that nobody waits for any more."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._reader)


def fly(settings: Settings) -> Run:
    """One flight, waited for. Raises KernelError."""
    run = Canary(settings).landed(LIFETIME_S + 1)
    if run is None:
        raise KernelError("the canary's process does not end")
    return run


def _child(writer: int, settings: Settings, parent: int) -> None:
    """Never returns: nothing of the parent's clean-up may run twice."""
    try:
        _be_mortal(parent)
        with _lock(Path(settings.runtime_directory)):
            text = json.dumps(asdict(_fly(settings)))
    except EgressguardError as error:
        text = str(error)
    except BaseException as error:
        text = f"the canary: {error!r}"
    try:
        os.write(writer, text.encode()[:60_000])
    finally:
        os._exit(0)


def _be_mortal(parent: int) -> None:
    """Dies with its parent, and of old age; signals do what they do to any process."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.alarm(LIFETIME_S)


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """One canary at a time: the daemon's and an operator's would take each other for one."""
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        make_beside(directory / LOCK, 0o600)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"{directory / LOCK}: {error.strerror}") from error
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise KernelError("another canary is in the air") from None
            time.sleep(0.02)
    yield
    os.close(descriptor)


def _fly(settings: Settings) -> Run:
    kernel = Netfilter()
    grounded = {a.version: _grounded(kernel, a) for a in settings.canary.addresses}
    flights = [Flight(v, Fate.GROUNDED, f"IPv{v}: the canary was not sent: {why}")
               for v, why in grounded.items() if why]
    inside = settings.inside_interfaces()
    pairs = [(a, b) for a in settings.canary.addresses for b in settings.canary.destinations
             if a.version == b.version and not grounded[a.version]]
    if pairs:
        with perch(tuple(a for a, _ in pairs)) as there:
            ready = []
            for source, destination in pairs:
                try:
                    there.way_out(source, destination, inside)
                    ready.append((source, destination))
                except KernelError as error:
                    flights.append(Flight(source.version, Fate.UNABLE, f"IPv{source.version}: {error}"))
            traces = _send(kernel, there.wire, ready, inside)
            flights += [judge(version, trace) for version, trace in traces.items()]
    return Run(time.monotonic(), tuple(sorted(flights, key=lambda flight: flight.family)))


def _grounded(kernel: Netfilter, source: Address) -> str:
    """Why this family's canary must stay: it never connects to the outside because that is allowed."""
    family = (PROTOCOL[source.version],)
    if Path("/proc/sys/net", FORWARDING[source.version]).read_text().strip() == "0":
        return "this machine does not forward it"
    if kernel.ruleset() is None:
        return "the table is not in the kernel"
    sets, leases = kernel.sets(), kernel.leases()
    if family in sets["observed_family"]:
        return "mode observe blocks nothing"
    if family in leases["opened_family"]:
        return "an operator has opened port 25"
    return _permitted(sets, leases, source)


def _permitted(sets: Sets, leases: Leases, source: Address) -> str:
    observed: frozenset[Element] = sets[f"group_observe{source.version}"]
    if any(port == SMTP and "-" not in network and source in ip_network(network)
           for port, network in observed):
        return "its address belongs to a group that is only observed"
    keys = {str(source), str(ip_network(host_of(source)).network_address)}
    if any(element[1] in keys for name in ("exception", "exception_to")
           for element in leases[f"{name}{source.version}"]):
        return "an exception is given to its address"
    return ""


def _send(kernel: Netfilter, wire: socket.socket, pairs: list[tuple[Address, Address]],
          inside: frozenset[str]) -> dict[int, Trace]:
    if not pairs:
        return {}
    sequences: dict[int, int] = {source.version: secrets.randbits(32) for source, _ in pairs}
    taps = {version: _tap(sequence) for version, sequence in sequences.items()}
    before = {source.version: _counted(kernel, source) for source, _ in pairs}
    totals = kernel.totals()
    for source, destination in pairs:
        wire.send(syn(source, destination, sequences[source.version], MAC_BYTES))
    answers = _answers(wire, sequences)
    after = kernel.totals()
    left = {version: _seen(tap) for version, tap in taps.items()}
    return {source.version: Trace(
        destination=str(destination), counted=_counted(kernel, source) - before[source.version],
        left_by=tuple(name for name in left[source.version] if name not in inside),
        led_inside=tuple(name for name in left[source.version] if name in inside),
        answer=answers.get(source.version, ""),
        spoofed=after.spoofed - totals.spoofed, odd=after.odd - totals.odd,
        overflow=after.overflow - totals.overflow) for source, destination in pairs}


def _tap(sequence: int) -> socket.socket:
    """Records the SYN on every interface that it leaves by, as late as the kernel lets anybody look."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.htons(ETH_P_ALL))
    watch_outgoing(tap, sequence)
    tap.setblocking(False)
    _seen(tap)  # Python cannot bind to every interface later, so it listened before it had its filter
    return tap


def _seen(tap: socket.socket) -> tuple[str, ...]:
    names: list[str] = []
    while True:
        try:
            names.append(str(tap.recvfrom(1)[1][0]))
        except BlockingIOError:
            return tuple(dict.fromkeys(names))


def _counted(kernel: Netfilter, source: Address) -> int:
    """What the rules have counted for the canary's key. Strangers' counters are read only if the inventory
    has none: it has one when the daemon sends canaries.
    """
    key = host_of(source)
    shard = shard_of(source)  # the addresses that a canary flies from are the first of their /64
    for sets in ({shard: INVENTORY[shard]}, STRANGERS):
        counts = kernel.counts(sets)
        if key in counts:
            return counts[key]
    return 0


def _answers(wire: socket.socket, sequences: dict[int, int]) -> dict[int, str]:
    """The first answer in each family, until all have come or none can any more."""
    found: dict[int, str] = {}
    deadline = time.monotonic() + ANSWER_S
    while len(found) < len(sequences) and (left_s := deadline - time.monotonic()) > 0:
        wire.settimeout(left_s)
        try:
            packet = wire.recv(2048)[14:]
        except TimeoutError:
            break
        for version, sequence in sequences.items():
            if packet[:1] and packet[0] >> 4 == version and (word := answer(packet, sequence)):
                found.setdefault(version, word)
    return found


