"""What a running milter answers to the commands of the administrator; see `requests`."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

from egressguard.core.errors import ConfigError
from egressguard.core.hosts import Address, host_of
from egressguard.core.verdict import State
from egressguard_milter.journal import line, logger
from egressguard_milter.ledger import Cap, Ledger
from egressguard_milter.limits import Limits
from egressguard_milter.policy import RATES, Policy
from egressguard_milter.requests import Request
from egressguard_milter.signals import Signals
from egressguard_milter.tallies import Tallies, Tally, distinct
from egressguard_milter.terms import Allowance

Answer = dict[str, Any]
# What a process has opened stays as it is until the next start.
FIXED = ("relay", "socket", "exchange", "exchange_key", "relays", "state", "metrics")

MOST_TOLD = 8  # routers


class Answers:
    """The running milter, as the control socket shows it."""

    def __init__(self, limits: Limits, ledger: Ledger, tallies: Tallies, signals: Signals,
                 read: Callable[[], Policy], faults: Callable[[float], Iterable[str]],
                 room: Callable[[], str] = str) -> None:
        """`faults` says what is wrong now; `room`, which of the policy's caps were not possible."""
        self._limits, self._ledger, self._tallies, self._signals = limits, ledger, tallies, signals
        self._read, self._faults, self._room = read, faults, room
        self._started_s = time.monotonic()
        self._reload_fault = ""

    def answer(self, request: Request, now_s: float) -> Answer:
        """The answer; with the key `error` when it could not be done."""
        commands: dict[str, Callable[[Request, float], Answer]] = {
            "status": self._status, "clients": self._clients, "explain": self._explain,
            "forgive": self._forgive, "reload": self._reload}
        return commands[request.command](request, now_s)

    def _status(self, _: Request, now_s: float) -> Answer:
        return self.status(now_s)

    def status(self, now_s: float) -> Answer:
        """How the running milter is."""
        policy, faults = self._limits.policy, [f for f in (*self._faults(now_s), self._reload_fault) if f]
        return {"relay": policy.relay, "healthy": not faults, "faults": faults,
                "uptime_s": round(now_s - self._started_s, 1), "sessions": self._limits.sessions,
                "max_sessions": policy.max_sessions, "room": self._room(),
                "accounts": self._ledger.census, "max_clients": policy.max_clients,
                "accepted": self._tallies.accepted_total, "deferred": self._tallies.deferred_total,
                "routers_heard": self._signals.any_fresh,
                "under_verdict": sum(self._signals.state(h, now_s) is not State.CLEAN
                                     for h in list(self._signals.states)),
                "switched_off": [name for name, on in asdict(policy.checks).items() if not on]}

    def _clients(self, request: Request, now_s: float) -> Answer:
        hosts = self._tallies.recent(request.count)
        rows = []
        for host in hosts:
            allowance = self._limits.allowance(*self._tallies.last_met(host))
            standing = self._limits.scaled(allowance, now_s).standing
            rows.append({"client": host, "tier": standing.tier, "limit": standing.limit,
                         **_tally(self._tallies.of(host))})
        return {"clients": rows}

    def _explain(self, request: Request, now_s: float) -> Answer:
        if request.client is None:
            claim = self._limits.directory.claim(request.key)
            return {"client": request.key, "open_connections": self._ledger.open_connections(request.key),
                    "limits": self._rows(request.key, claim.caps if claim else (), None, now_s)}
        allowance = self._limits.allowance(request.client, request.name or self._name(request.client))
        standing, (claim, *_), levels, _ = self._limits.scaled(allowance, now_s)
        payer = self._ledger.payer(claim)
        return {"client": allowance.host, "key": payer, "known": claim.pool.name == "KNOWN",
                "group": allowance.group,
                "tier": standing.tier, "verdict": standing.verdict,
                "told": [asdict(told) for told in self._signals.told(allowance.host, now_s)[:MOST_TOLD]],
                "hold_queue": standing.hold_queue,
                "limits": self._rows(payer, claim.caps, allowance, now_s),
                "levels": {name: {"most": most,
                                  "source": allowance.sources.get(name, "max_sessions_per_client")}
                           for name, most in levels.items()},
                "open_connections": self._ledger.open_connections(payer),
                "shared": {s.key: self._rows(s.key, s.caps, None, now_s) for s in allowance.shared},
                "seen": _tally(self._tallies.of(allowance.host))}

    def _rows(self, key: str, caps: tuple[Cap, ...], allowance: Allowance | None,
              now_s: float) -> list[Answer]:
        used = self._ledger.usage(key, caps, now_s)
        return [{"limit": RATES[cap.kind], "used": n, "most": cap.most, "window_s": cap.window_s,
                 "source": allowance.sources[RATES[cap.kind]] if allowance else key}
                for cap, n in zip(caps, used, strict=True)]

    def _forgive(self, request: Request, now_s: float) -> Answer:
        key = self._key(request.client) if request.client is not None else request.key
        had = self._ledger.forgive(key, now_s)
        logger.warning(line("forgiven", key=key, had=had))
        return {"client": key, "forgiven": had}

    def _reload(self, _: Request, __: float) -> Answer:
        before = self._limits.policy
        try:
            policy = self._read()
        except ConfigError as error:
            self._reload_fault = f"the last reload was refused: {error}"
            logger.error(line("reload_refused", reason=error, effect="the old policy holds"))
            return {"error": f"{error}\nthe old policy holds"}
        later = [name for name in FIXED if getattr(policy, name) != getattr(before, name)]
        self._limits.use(replace(policy, **{name: getattr(before, name) for name in later}))
        self._reload_fault = ""
        logger.info(line("reloaded", at_next_start=",".join(later)))
        return {"reloaded": True, "at_next_start": later}

    def _name(self, address: Address) -> str:
        """The verified host name with which a client was last here."""
        met, name = self._tallies.last_met(host_of(address))
        return name if met == address else ""

    def _key(self, address: Address) -> str:
        return self._limits.allowance(address).claim.key


def _tally(tally: Tally) -> Answer:
    return {"accepted": tally.accepted, "deferred": tally.deferred, "recipients": tally.recipients,
            "refused_recipients": tally.refused_recipients, "senders": distinct(tally.senders),
            "domains": distinct(tally.domains), "declared_bytes": tally.declared_bytes}
