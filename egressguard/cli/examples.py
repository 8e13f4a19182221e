"""What stands under "Examples:" in each command's help, and in its man page; a test executes it.

A comment `exit code N` at the end of a line says how the command ends when that is not 0.
"""

EXAMPLES = {
    "allow": """
        egressguard allow web1 --for 2h --reason "migration of the shop"
        egressguard allow 198.51.100.11 --to 203.0.113.130 --for 7d --reason "their smarthost"
    """,
    "apply": """
        egressguard apply
        egressguard apply --confirm 60s      # the former configuration returns unless confirmed in time
    """,
    "check": """
        egressguard check
        egressguard check --config docs/examples/egressguard.toml --json
    """,
    "completion": "egressguard completion bash >/etc/bash_completion.d/egressguard",
    "confirm": """
        egressguard confirm                  # what is on trial stays
        egressguard confirm --no             # nothing is on trial any more: exit code 4
    """,
    "doctor": """
        egressguard doctor
        egressguard doctor --json
    """,
    "exchange": "egressguard exchange names",
    "exchange names": "egressguard exchange names",
    "exchange forget": "egressguard exchange forget relay",
    "exchange-setup": """
        egressguard exchange-setup --address 192.0.2.10
        egressguard exchange-setup --new-key
    """,
    "explain": """
        egressguard explain web2
        egressguard explain 198.51.100.12 --json
    """,
    "history": """
        egressguard history
        egressguard history web2 --limit 5
        egressguard history --json
    """,
    "hosts": """
        egressguard hosts
        egressguard hosts --would-block      # the list to work through before you enforce
        egressguard hosts --json
    """,
    "init": """
        egressguard init --yes --no-start --config /etc/egressguard/new.toml
        egressguard init --yes --no-start --config /etc/egressguard/b.toml --inside web --sender r=192.0.2.10
    """,
    "mta-config": """
        egressguard mta-config --mta postfix --role client --relay 192.0.2.10
        egressguard mta-config --mta sendmail --role relay --network 198.51.100.0/24
        egressguard mta-config --mta exim --role client --relay 192.0.2.10
    """,
    "notify": """
        egressguard notify                   # what waits for its delivery, and why
        egressguard notify --json
    """,
    "open": 'egressguard open --for 15m --reason "the relay is down, mail must get out"',
    "plan": """
        egressguard plan
        egressguard plan --json
    """,
    "quarantine": 'egressguard quarantine web2 --for 1h --reason "it spams through the relay, too"',
    "release": """
        egressguard release web2 --reason "cleaned"
        egressguard release --reason "the relay is up again"      # shuts what `open` opened
    """,
    "run": "egressguard run --config /etc/egressguard/egressguard.toml",
    "replay": "egressguard replay docs/examples/trace.csv",
    "tune": """
        egressguard tune
        egressguard tune --target 0.005 --json
    """,
    "status": """
        egressguard status
        egressguard status --watch           # until Ctrl-C
        egressguard status --json
    """,
}
