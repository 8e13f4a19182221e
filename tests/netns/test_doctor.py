"""The doctor on a real router: every bad condition that this kernel can have is made, found, and named. A doctor that
does not look there is noticed."""

import json
import socket
from collections.abc import Callable

import pytest

from egressguard.kernel.links import read_links, read_links_and_routes
from lab.deployment import Deployment
from lab.network import SOMEBODY4, SOMEBODY6
from lab.sink import Sink

# Not made here, because this kernel lacks them: flowtables, IPIP, SIT, GRE, WireGuard, macvlan, ipvlan, Open vSwitch,
# and XDP programs for want of a compiler. Their findings are tested in tests/unit/test_diagnosis.py, by name.


@pytest.fixture
def site(site: Deployment) -> Deployment:
    """Applied, without a daemon; a router as it should be."""
    site.world.router.sysctl({f"net.ipv4.conf.{name}.rp_filter": 1 for name in ("dmz", "web")})
    site.amend("", f'[canary]\ndestinations = ["{SOMEBODY4}", "{SOMEBODY6}"]\n')
    assert site.egressguard("apply").returncode == 0
    return site


def examined(site: Deployment) -> tuple[int, list[tuple[str, str]], str]:
    """Exit code, (severity, name) of every finding, and all the words."""
    done = site.egressguard("doctor", "--json")
    assert done.returncode != 4, done.stderr
    said = json.loads(done.stdout)
    assert said["exit_code"] == done.returncode
    return done.returncode, [(f["severity"], f["name"]) for f in said["findings"]], done.stdout


def nft(site: Deployment, text: str) -> None:
    site.world.router.run(["nft", "-f", "-"], stdin=text)


def test_a_router_as_it_should_be_has_no_finding(site: Deployment) -> None:
    assert examined(site)[:2] == (0, [])
    text = site.egressguard("doctor").stdout
    assert text.startswith("the rules stand on the path\n")
    assert text.count("and counted once") == 2
    assert "libnftables" in text


BASE = "table {family} other {{\n chain c {{\n type {kind} hook {hook} priority {priority}\n {rule}\n }}\n }}\n"


@pytest.mark.parametrize(("hook", "kind", "priority", "rule", "code", "name"), [
    ("prerouting", "filter", "raw", "tcp dport 25 notrack", 2, "notrack"),
    ("prerouting", "filter", "raw", "notrack", 2, "notrack"),
    ("prerouting", "filter", "raw", 'iifname "web" tcp dport { 20-30, 587 } notrack', 2, "notrack"),
    ("prerouting", "nat", "dstnat", "tcp dport 25 dnat ip to 203.0.113.140:2525", 3, "redirect"),
    ("prerouting", "nat", "dstnat", "tcp dport 25 dnat ip to 192.0.2.10", 2, "redirect"),
    ("prerouting", "nat", "dstnat", "tcp dport 25 redirect to :2525", 2, "redirect"),
    ("prerouting", "filter", "mangle", "tcp dport 25 drop", 2, "dropped early"),
    ("forward", "filter", "-20", "tcp dport { 25, 465 } drop", 2, "dropped early"),
    ("postrouting", "filter", "0", "tcp dport 2525 tcp dport set 25", 2, "port rewritten"),
])
def test_another_tables_rule_is_found(site: Deployment, hook: str, kind: str, priority: str, rule: str, code: int,
                                      name: str) -> None:
    nft(site, BASE.format(family="inet", hook=hook, kind=kind, priority=priority, rule=rule))
    found = examined(site)
    assert found[0] == code
    assert name in [n for _, n in found[1]]


@pytest.mark.parametrize(("hook", "kind", "priority", "rule"), [
    ("forward", "filter", "-20", "tcp dport 25 accept"),
    ("forward", "filter", "0", "tcp dport 25 drop"),
    ("prerouting", "filter", "raw", "udp dport 53 notrack"),
    ("prerouting", "filter", "raw", "tcp dport 80 notrack"),
    ("prerouting", "nat", "dstnat", 'iifname "wan" tcp dport 25 dnat ip to 192.0.2.20'),
    ("prerouting", "nat", "dstnat", "ip daddr 203.0.113.1 tcp dport 25 dnat ip to 192.0.2.20:2525"),
    ("prerouting", "nat", "dstnat", "fib daddr type local tcp dport 25 dnat ip to 192.0.2.20:2525"),
    ("postrouting", "nat", "srcnat", 'oifname "wan" masquerade'),
])
def test_another_tables_harmless_rule_is_not_a_finding(site: Deployment, hook: str, kind: str, priority: str,
                                                       rule: str) -> None:
    nft(site, BASE.format(family="inet", hook=hook, kind=kind, priority=priority, rule=rule))
    assert examined(site)[:2] == (0, [])


def iptables(site: Deployment, rule: str, variant: str = "nft") -> None:
    site.world.router.run([f"iptables-{variant}", *rule.split()])


@pytest.mark.parametrize(("rule", "code", "name"), [
    ("-t nat -A PREROUTING -i web -p tcp --dport 25 -j DNAT --to-destination 203.0.113.130:2525", 3, "redirect"),
    ("-t nat -A PREROUTING -i we+ -p tcp --dport 25 -j DNAT --to-destination 203.0.113.130:2525", 3, "redirect"),
    ("-t nat -A PREROUTING -i web -p tcp -m multiport --dports 25,26 -j DNAT --to-destination 203.0.113.130:2525", 2,
     "redirect"),
    ("-t nat -A PREROUTING -i web -j NETMAP --to 203.0.113.0/24", 2, "redirect"),
    ("-t nat -A PREROUTING -i web -p tcp --dport 25 -j REDIRECT --to-ports 2525", 2, "redirect"),
    ("-t mangle -A PREROUTING -i web -p tcp --dport 25 -j TPROXY --on-port 3129", 2, "redirect"),
    ("-t mangle -A PREROUTING -i web -p tcp --dport 25 -j TEE --gateway 192.0.2.10", 2, "copied"),
    ("-t raw -A PREROUTING -i web -p tcp --dport 25 -j NOTRACK", 2, "notrack"),
    ("-t raw -A PREROUTING -i web -p tcp --dport 25 -j CT --notrack", 2, "notrack"),
    ("-t filter -I FORWARD -i web -p tcp --dport 25 -j REJECT", 0, ""),
    ("-t nat -A PREROUTING -i wan -p tcp --dport 25 -j DNAT --to-destination 192.0.2.20:2525", 0, ""),
    ("-t nat -A PREROUTING -i web -p tcp --dport 80 -j DNAT --to-destination 192.0.2.20:2525", 0, ""),
    ("-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.1", 0, ""),
    ("-t mangle -A FORWARD -i web -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", 0, ""),
    ("-t nat -A POSTROUTING -o wan -j MASQUERADE", 0, ""),
])
def test_rules_of_the_real_iptables_nft_are_judged_as_natives_are(site: Deployment, rule: str, code: int,
                                                                  name: str) -> None:
    iptables(site, rule)
    found = examined(site)
    assert found[0] == code, found
    assert ({n for _, n in found[1]} if name else found[1]) == ({name} if name else []), found


def test_what_iptables_nft_lets_out_is_not_called_on_the_path(site: Deployment) -> None:
    iptables(site, "-t nat -A PREROUTING -i web -p tcp --dport 25 -j DNAT --to-destination 203.0.113.130:2525")
    with Sink(site.world.outside, port=2525):
        site.world.web2.call(socket.create_connection, (SOMEBODY4, 25), 5).close()
    assert site.egressguard("doctor").stdout.startswith("the rules do not stand on the path")


def test_tables_of_iptables_legacy_are_told(site: Deployment) -> None:
    iptables(site, "-t nat -A PREROUTING -i web -p tcp --dport 25 -j DNAT --to-destination 203.0.113.130:2525", "legacy")
    assert ("WEAKENS", "iptables-legacy") in examined(site)[1]


def test_a_drop_that_is_jumped_to_is_found(site: Deployment) -> None:
    nft(site, "table ip other {\n chain shut {\n tcp dport 25 drop\n }\n chain pass {\n goto shut\n }\n chain c {\n"
              "type filter hook prerouting priority raw\n ip protocol tcp jump pass\n }\n }\n")
    assert ("WEAKENS", "dropped early") in examined(site)[1]


def test_the_canary_tells_what_stopped_it(site: Deployment) -> None:
    nft(site, BASE.format(family="inet", hook="prerouting", kind="filter", priority="raw", rule="tcp dport 25 drop"))
    code, found, words = examined(site)
    assert code == 2
    assert ("WEAKENS", "canary") in found
    assert "did not reach the rules" in words


@pytest.mark.parametrize(("harm", "name"), [
    ("flush ruleset", "table"), ("add table inet egressguard { flags dormant; }", "table"),
    ("insert rule inet egressguard egress_forward accept", "canary"),
])
def test_rules_that_do_not_stand_on_the_path_are_exit_code_3(site: Deployment, harm: str, name: str) -> None:
    site.world.router.run(["nft", harm])
    code, found, _ = examined(site)
    assert code == 3
    assert ("NOT ON THE PATH", name) in found


def test_mode_observe_is_said_and_nothing_is_sent(site: Deployment) -> None:
    site.amend('mode = "enforce"', 'mode = "observe"')
    assert site.egressguard("apply").returncode == 0
    code, found, words = examined(site)
    assert (code, found) == (2, [("WEAKENS", "canary")] * 2)
    assert "not enforcing: IPv4: the canary was not sent: mode observe blocks nothing" in words


@pytest.mark.parametrize(("commands", "code", "finding"), [
    (["link add vx0 type vxlan id 5 dstport 4789 local 203.0.113.1", "link set vx0 up"], 0, ("note", "tunnel")),
    (["link add up2 type veth peer name up2b", "address add 203.0.113.129/32 dev up2", "link set up2 up"], 0,
     ("note", "uplink")),
    (["link add br0 type bridge", "link set br0 up", "link set web master br0"], 2, ("WEAKENS", "bridge port inside")),
    (["route add default via 192.0.2.10 metric 5"], 3, ("NOT ON THE PATH", "default route inside")),
    (["route add default via 192.0.2.10 table 77"], 3, ("NOT ON THE PATH", "default route inside")),
    (["route add 64.0.0.0/2 via 192.0.2.10"], 3, ("NOT ON THE PATH", "default route inside")),
    (["route add 2000::/3 via 2001:db8:0:a::2"], 3, ("NOT ON THE PATH", "default route inside")),
    (["route add 203.0.113.192/27 via 192.0.2.10"], 2, ("WEAKENS", "route inside")),
    (["address add 203.0.113.193/27 dev web"], 0, ("note", "network inside")),
    (["route add 192.0.2.10/32 dev web"], 2, ("WEAKENS", "sender's place")),
    (["link set web down", "link set web name web9", "link set web9 up"], 2, ("WEAKENS", "inside interface")),
])
def test_interfaces_and_routes_are_found(site: Deployment, commands: list[str], code: int,
                                         finding: tuple[str, str]) -> None:
    site.world.router.ip(*commands)
    found = examined(site)
    assert found[0] == code, found
    assert finding in found[1]


def test_a_tunnel_that_is_configured_as_inside_is_found(site: Deployment) -> None:
    site.amend('interfaces = ["web"]', 'interfaces = ["web", "vx0"]')
    site.world.router.ip("link add vx0 type vxlan id 5 dstport 4789 local 203.0.113.1", "link set vx0 up")
    assert ("WEAKENS", "tunnel inside") in examined(site)[1]


def test_ten_thousand_routes_are_as_good_as_a_default_route(site: Deployment) -> None:
    networks = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(10_000)]
    site.world.router.run(["ip", "-batch", "-"], stdin="".join(f"route add {n} via 192.0.2.10\n" for n in networks))

    def uplinks() -> set[str]:
        return {link.name for link in site.world.router.call(read_links) if 4 in link.default_route}

    assert uplinks() == {"wan", "dmz"}
    site.world.router.ip(*(f"route del {network}" for network in networks[:20]))
    assert uplinks() == {"wan"}


def test_routes_of_every_kind_are_read(site: Deployment) -> None:
    """Several hops, a hop of the other family, another table, none at all; and what leads nowhere is none."""
    site.world.router.ip(
        "route add 192.0.2.64/26 nexthop via 192.0.2.10 dev dmz nexthop via 198.51.100.12 dev web",
        "route add 192.0.2.128/26 via inet6 2001:db8:0:a::2 dev dmz", "route add 192.0.2.192/26 dev web table 777",
        "route add blackhole 203.0.113.64/26", "route add 2001:db8:77::/48 nexthop via 2001:db8:0:a::2 nexthop via 2001:db8:0:12::2")

    def seen() -> set[tuple[str, str, bool]]:
        routes = read_links_and_routes(frozenset({"dmz", "web"}))[1]
        return {(route.interface, str(route.network), route.onward) for route in routes}

    found, kept = site.world.router.call(seen), ("192.0.2.0/26", "198.51.100.0/24", "2001:db8:0:", "fe80::", "ff00::")
    assert {route for route in found if not route[1].startswith(kept)} == {
        ("dmz", "192.0.2.64/26", True), ("web", "192.0.2.64/26", True), ("dmz", "192.0.2.128/26", True),
        ("web", "192.0.2.192/26", False), ("dmz", "2001:db8:77::/48", True), ("web", "2001:db8:77::/48", True)}
    assert {("dmz", "192.0.2.0/26", False), ("web", "198.51.100.0/24", False)} <= found


def bridged(site: Deployment) -> None:
    """An inside bridge with a machine and an uplink on it; vxlan stands for the hardware."""
    site.amend('interfaces = ["web"]', 'interfaces = ["web", "br0"]')
    site.world.router.ip("link add br0 type bridge", "link set br0 up", "link add vm0 type veth peer name vm0b",
                         "link set vm0 master br0", "link add vx0 type vxlan id 5 dstport 4789 local 203.0.113.1",
                         "link set vx0 master br0")
    assert site.egressguard("apply").returncode == 0


def test_a_bridge_past_the_rules_is_found_unless_it_is_filtered(site: Deployment) -> None:
    bridged(site)
    site.world.router.sysctl({"net.bridge.bridge-nf-call-iptables": 0, "net.bridge.bridge-nf-call-ip6tables": 0})
    assert examined(site)[1].count(("WEAKENS", "bridged")) == 2
    site.world.router.sysctl({"net.bridge.bridge-nf-call-iptables": 1, "net.bridge.bridge-nf-call-ip6tables": 1})
    assert ("WEAKENS", "bridged") not in examined(site)[1]


@pytest.mark.parametrize(("keys", "code", "name"), [
    ({"net.ipv4.conf.dmz.rp_filter": 0}, 0, "rp_filter"),
    ({"net.ipv4.conf.all.accept_source_route": 1, "net.ipv4.conf.dmz.accept_source_route": 1}, 2, "source routing"),
    ({"net.ipv6.conf.all.accept_source_route": 1, "net.ipv6.conf.web.accept_source_route": 1}, 2, "source routing"),
    ({"net.ipv4.ip_forward": 0}, 0, "forwarding"),
    ({"net.ipv4.ip_forward": 0, "net.ipv6.conf.all.forwarding": 0}, 3, "forwarding"),
])
def test_switches_of_the_kernel_are_found(site: Deployment, keys: dict[str, int], code: int, name: str) -> None:
    site.world.router.sysctl(keys)
    found = examined(site)
    assert found[0] == code, found
    assert name in [n for _, n in found[1]]


def test_traffic_control_on_an_inside_interface_is_found(site: Deployment) -> None:
    site.world.router.run(["tc", "qdisc", "add", "dev", "web", "clsact"])
    assert examined(site)[:2] == (2, [("WEAKENS", "tc")])


def test_frames_forwarded_below_the_rules_are_found(site: Deployment) -> None:
    nft(site, 'table netdev other {\n chain c {\n type filter hook ingress device "web" priority 0\n fwd to "wan"\n }\n }\n')
    assert ("WEAKENS", "forwarded below") in examined(site)[1]


def test_a_network_of_containers_is_named(site: Deployment) -> None:
    nft(site, BASE.format(family="ip", hook="postrouting", kind="nat", priority="srcnat",
                          rule="ip saddr 198.51.100.64/26 masquerade"))
    site.world.router.ip("link add docker0 type bridge", "address add 198.51.100.65/26 dev docker0", "link set docker0 up")
    assert examined(site)[:2] == (0, [("note", "containers")])


def test_what_cannot_be_told_is_exit_code_4(site: Deployment) -> None:
    site.world.router.ip("link add egcanary0 type bridge")
    done = site.egressguard("doctor")
    assert done.returncode == 4
    assert "is not egressguard's" in done.stderr


OTHER_HOST = "-t nat -A PREROUTING -i {} -p tcp --dport 25 -j DNAT --to-destination 203.0.113.130:2525"
SURROUNDINGS, RULES = "import egressguard.kernel.surroundings as s; s.", "import egressguard.core.foreign_rules as r; r."
MUTANTS: dict[str, tuple[str, Callable[[Deployment], None]]] = {
    "reads no rule of iptables": (RULES + "_target = lambda what: ''", lambda site: (
        test_rules_of_the_real_iptables_nft_are_judged_as_natives_are(site, OTHER_HOST.format("web"), 3, "redirect"))),
    "takes a wildcard for a name": (
        RULES + "_holds = lambda right, value, f=r._holds: f(right.replace('*', '') if isinstance(right, str) else right, value)",
        lambda site: test_rules_of_the_real_iptables_nft_are_judged_as_natives_are(site, OTHER_HOST.format("we+"), 3, "redirect")),
    "has never heard of iptables-legacy": (SURROUNDINGS + "read_legacy = lambda: ()", test_tables_of_iptables_legacy_are_told),
    "knows default routes only": (
        "import egressguard.kernel.routing as r; r.wide = lambda network: network.prefixlen == 0",
        lambda site: test_interfaces_and_routes_are_found(
            site, ["route add 64.0.0.0/2 via 192.0.2.10"], 3, ("NOT ON THE PATH", "default route inside"))),
    "reads no routes behind inside interfaces": (SURROUNDINGS + "read_links_and_routes = lambda inside, f=s.read_links_and_routes: (f(inside)[0], ())", lambda site: (
        test_interfaces_and_routes_are_found(site, ["route add 203.0.113.192/27 via 192.0.2.10"], 2, ("WEAKENS", "route inside")))),
    "believes that senders are where they should be": (
        SURROUNDINGS + "read_ways = lambda addresses: {str(a): 'dmz' for a in addresses}", lambda site: (
            test_interfaces_and_routes_are_found(site, ["route add 192.0.2.10/32 dev web"], 2, ("WEAKENS", "sender's place")))),
    "does not ask whether interfaces exist": (
        "import egressguard.core.diagnosis as d; d.inside_interfaces = lambda seen: iter(())", lambda site: (
            test_interfaces_and_routes_are_found(site, ["link set web down", "link set web name web9", "link set web9 up"], 2,
                                                 ("WEAKENS", "inside interface")))),
}


@pytest.mark.parametrize("doctor", MUTANTS)
def test_mutant_a_doctor_that(site: Deployment, doctor: str) -> None:
    site.change, check = MUTANTS[doctor]
    with pytest.raises(AssertionError):
        check(site)
