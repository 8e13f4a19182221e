"""The same block of port 25 as others do it, each with its own tools: what a blocked SYN costs there."""

from functools import cache
from ipaddress import ip_address

from bench.firewall import fail2ban, firewalld
from bench.firewall.line import Line
from bench.firewall.packets import BARE, FLOOR, TRACKED, Ruleset, egressguard, nft

# A hundred addresses, the flood's among them. (fail2ban's iptables action puts the last one first.)
BANNED = {4: [str(ip_address("198.51.100.0") + n) for n in range(100)],
          6: [str(ip_address("2001:db8:0:12::") + n) for n in range(100)]}
ELSEWHERE = {4: "192.0.2.{}", 6: "2001:db8:0:ff::{}"}
IPTABLES, INET = {4: "iptables-nft", 6: "ip6tables-nft"}, {4: "inet", 6: "inet6"}


def iptables(name: str, family: int, rules: str) -> Ruleset:
    """Rules that iptables-nft translates and loads."""
    text = f"*filter\n:FORWARD ACCEPT [0:0]\n{rules}COMMIT\n"

    def load(line: Line) -> None:
        line.load(TRACKED)
        line.router.run([f"{IPTABLES[family]}-restore"], stdin=text)
    return Ruleset(name, load)


def ipset(family: int) -> Ruleset:
    """A hash:ip of a hundred addresses, with counters, and one iptables-nft rule that asks it."""
    name = f"egress{family}"
    rule = iptables("", family, f"-A FORWARD -p tcp --dport 25 -m set --match-set {name} src -j DROP\n")

    def load(line: Line) -> None:
        line.router.run(["ipset", "-exist", "create", name, "hash:ip", "family", INET[family], "counters"])
        added = "".join(f"add {name} {address}\n" for address in BANNED[family])
        line.router.run(["ipset", "-exist", "restore"], stdin=added)
        rule.load(line)
    return Ruleset("ipset of 100, with counters", load)


def by_fail2ban(tool: str, family: int) -> Ruleset:
    """A hundred addresses that fail2ban's own action has banned."""
    @cache
    def written(line: Line) -> str:
        line.load(TRACKED if tool == "nftables" else "")
        fail2ban.banned(line.router, f"{tool}-multiport", BANNED[family])
        command = ["nft", "list", "ruleset"] if tool == "nftables" else [f"{IPTABLES[family]}-save"]
        return line.router.run(command).stdout

    def load(line: Line) -> None:
        text = written(line)
        line.load(text if tool == "nftables" else TRACKED)
        if tool != "nftables":
            line.router.run([f"{IPTABLES[family]}-restore"], stdin=text)
    return Ruleset(f"fail2ban's {tool} action, 100 banned", load)


@cache
def _firewalld_rules(line: Line) -> str:
    return TRACKED + firewalld.ruleset(line.router)


def blocked(family: int) -> tuple[Ruleset, ...]:
    """What is compared, in this address family."""
    others = (ELSEWHERE[family].format(n % 250 + 1) for n in range(1000))
    chain = "".join(f"-A FORWARD -p tcp --dport 25 -s {other} -j DROP\n" for other in others)
    return (
        nft("drop at the door (floor)", FLOOR),
        nft("bare forward drop", BARE),
        nft("egressguard, 100 hosts", egressguard(100)),
        nft("egressguard, 100,000 hosts", egressguard(100_000)),
        ipset(family),
        by_fail2ban("nftables", family),
        by_fail2ban("iptables", family),
        Ruleset("firewalld, a policy that drops port 25", lambda line: line.load(_firewalld_rules(line))),
        iptables("iptables-nft, 1,000 rules", family, f"{chain}-A FORWARD -p tcp --dport 25 -j DROP\n"),
    )
