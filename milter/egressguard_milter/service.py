"""Puts the relay's parts together, in the order in which none of them can be met half made."""

import secrets

from egressguard.exchange import open_exchange
from egressguard.service_manager import notify
from egressguard_milter import callbacks
from egressguard_milter.endpoint import Endpoint, claim, parse_endpoint
from egressguard_milter.journal import line, logger
from egressguard_milter.ledger import Ledger
from egressguard_milter.limits import Limits
from egressguard_milter.link import Link
from egressguard_milter.policy import Policy
from egressguard_milter.reports import Reports
from egressguard_milter.shutdown import Shutdown, block_signals
from egressguard_milter.signals import Signals
from egressguard_milter.watch import Watch


def run(policy: Policy) -> None:
    """Serves the MTA until a stop signal; then the process ends. Raises ListenError."""
    block_signals()
    endpoint = parse_endpoint(policy.socket)
    claim(endpoint)
    signals, ledger = Signals(), Ledger(policy.limits.window_s, policy.max_clients)
    limits = Limits(policy, ledger, signals.state)
    reports = Reports(policy, secrets.token_hex(8), limits, ledger, signals)
    watch = Watch(policy, signals, reports, Link(lambda: open_exchange(policy.exchange)))
    callbacks.listen(endpoint, limits)
    watch.safe_step()  # the verdicts are in force before the first message
    watch.start()
    shutdown = Shutdown(lambda: _last_steps(watch, endpoint))
    shutdown.start()
    _say_started(policy, endpoint)
    notify("READY=1")
    callbacks.serve()
    shutdown.finish("libmilter")


def _last_steps(watch: Watch, endpoint: Endpoint) -> None:
    notify("STOPPING=1")
    if endpoint.path is not None:
        endpoint.path.unlink(missing_ok=True)  # libmilter leaves it behind
    watch.stop()


def _say_started(policy: Policy, endpoint: Endpoint) -> None:
    logger.info(line("started", relay=policy.relay, socket=endpoint.connection,
                     messages=policy.limits.messages, window_s=policy.limits.window_s,
                     exchange=policy.exchange))
