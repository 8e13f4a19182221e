"""What stands under "Examples:" in each command's help, and in its man page; a test executes it."""

EXAMPLES = {
    "check": "egressguard-milter check --postfix /etc/postfix --json",
    "check-config": """
        egressguard-milter check-config
        egressguard-milter check-config --config milter/egressguard-milter.toml
    """,
    "clients": """
        egressguard-milter clients
        egressguard-milter clients --count 5 --json
    """,
    "completion": "egressguard-milter completion bash >/etc/bash_completion.d/egressguard-milter",
    "explain": """
        egressguard-milter explain 198.51.100.12
        egressguard-milter explain 198.51.100.12 --name web2.example
    """,
    "forgive": "egressguard-milter forgive 198.51.100.12",
    "import": "egressguard-milter import --format access /etc/mail/access",
    "init": """
        egressguard-milter init
        egressguard-milter init --yes --network 198.51.100.0/24 --config /etc/egressguard/new.toml
    """,
    "mta-config": """
        egressguard-milter mta-config --mta postfix --role relay --network 198.51.100.0/24
        egressguard-milter mta-config --mta sendmail --role client --relay 192.0.2.10
    """,
    "reload": "egressguard-milter reload",
    "run": "egressguard-milter run --config /etc/egressguard/egressguard-milter.toml",
    "status": """
        egressguard-milter status
        egressguard-milter status --json
    """,
}
