"""`egressguard mta-config` prints the how-to with a site's addresses; that it works is test_howto's matter."""

import pytest

from tests.relay.mtas import mta_config, printed


def lines(part: str, *arguments: str) -> list[str]:
    return printed(*arguments)[part].splitlines()


def test_a_sendmail_client_sends_everything_to_the_relay_and_keeps_what_it_defers() -> None:
    parts = printed("--mta", "sendmail", "--role", "client", "--relay", "192.0.2.10", "--relay", "2001:db8::10")
    assert parts["/etc/mail/mailertable"] == ".\tesmtp:[192.0.2.10]:[IPv6:2001:db8::10]\n"
    assert "define(`confMIN_QUEUE_AGE', `15m')dnl" in parts["/etc/mail/sendmail.mc"].splitlines()
    assert parts["command line"].split() == ["sendmail", "-bd", "-q5m"]


def test_a_sendmail_relay_asks_a_filter_that_cannot_be_passed_by() -> None:
    parts = printed("--mta", "sendmail", "--role", "relay", "--network", "198.51.100.0/24",
                    "--network", "2001:db8:0:11::/64", "--milter", "inet:8893@::1")
    assert parts["/etc/mail/access"] == "Connect:198.51.100\tRELAY\nConnect:IPv6:2001:db8:0:11\tRELAY\n"
    assert ("INPUT_MAIL_FILTER(`egressguard', `S=inet6:8893@::1, F=T, T=C:2s;S:3s;R:3s;E:5s')dnl"
            in parts["/etc/mail/sendmail.mc"].splitlines())


@pytest.mark.parametrize(("network", "first", "count"), [
    ("192.0.2.7", "Connect:192.0.2.7\tRELAY", 1),
    ("192.0.2.64/26", "Connect:192.0.2.64\tRELAY", 64),
    ("10.16.0.0/12", "Connect:10.16\tRELAY", 16),
    ("2001:db8::/32", "Connect:IPv6:2001:db8\tRELAY", 1),
    ("2001:db8:0:8::/61", "Connect:IPv6:2001:db8:0:8\tRELAY", 8),
    ("2001:db8::5", "Connect:IPv6:2001:db8:0:0:0:0:0:5\tRELAY", 1),
])
def test_any_network_becomes_keys_that_the_access_map_knows(network: str, first: str, count: int) -> None:
    access = lines("/etc/mail/access", "--mta", "sendmail", "--role", "relay", "--network", network)
    assert (access[0], len(set(access))) == (first, count)


def test_a_network_that_the_access_map_cannot_hold_is_refused_with_what_it_can() -> None:
    done = mta_config("--mta", "sendmail", "--role", "relay", "--network", "2001:db8::/34")
    assert done.returncode != 0
    assert "--network: 2001:db8::/34 would be 16384 lines" in done.stderr
    assert "or a /32" in done.stderr


def test_a_postfix_client_and_relay() -> None:
    client = lines("/etc/postfix/main.cf", "--mta", "postfix", "--role", "client", "--relay", "2001:db8::10",
                   "--relay", "relay2.example")
    assert client == ["relayhost = [2001:db8::10]", "smtp_fallback_relay = [relay2.example]", "queue_run_delay = 5m",
                      "minimal_backoff_time = 15m", "maximal_backoff_time = 15m"]
    relay = lines("/etc/postfix/main.cf", "--mta", "postfix", "--role", "relay", "--network", "2001:DB8:0:11::/64")
    assert relay == ["mynetworks = 127.0.0.0/8 [::1]/128 [2001:db8:0:11::]/64",
                     "smtpd_milters = { inet:127.0.0.1:8892, default_action=tempfail, "
                     "connect_timeout=2s, command_timeout=3s, content_timeout=5s }"]


def test_exim_can_be_a_client_but_no_relay() -> None:
    parts = printed("--mta", "exim", "--role", "client", "--relay", "192.0.2.10")
    assert any("*  *  F,5d,15m" in text for text in parts.values())
    done = mta_config("--mta", "exim", "--role", "relay", "--network", "198.51.100.0/24")
    assert (done.returncode, done.stdout) == (4, "")
    assert "Exim has no milter interface" in done.stderr


def test_only_one_file_is_printed_ready_to_be_written() -> None:
    done = mta_config("--mta", "sendmail", "--role", "client", "--relay", "192.0.2.10",
                      "--only", "/etc/mail/mailertable")
    assert (done.returncode, done.stdout) == (0, ".\tesmtp:[192.0.2.10]\n")
    assert "none of its files; they are /etc/mail/mailertable" in mta_config(
        "--mta", "sendmail", "--role", "client", "--relay", "192.0.2.10", "--only", "main.cf").stderr


@pytest.mark.parametrize(("arguments", "said"), [
    (["--role", "client"], "--relay: is missing"),
    (["--role", "relay"], "--network: is missing"),
    (["--role", "client", "--relay", "[192.0.2.10]:25"], "--relay: '[192.0.2.10]:25' is neither"),
    (["--role", "client", "--relay", "0.0.0.0"], "--relay: 0.0.0.0 is no host's address"),
    (["--role", "client", "--relay", "a.example')dnl"], "is neither an address nor a full host name"),
    (["--role", "relay", "--network", "web"], "--network: 'web' is no network"),
    (["--role", "relay", "--network", "192.0.2.3/24"], "the network is 192.0.2.0/24"),
    (["--role", "relay", "--network", "0.0.0.0/0"], "would make an open relay"),
    (["--role", "relay", "--network", "192.0.2.0/24", "--milter", "inet:127.0.0.1:8892"], "write inet:PORT@ADDRESS"),
    (["--role", "relay", "--network", "192.0.2.0/24", "--milter", "unix:/run/x y"], "write inet:PORT@ADDRESS"),
    (["--role", "client", "--relay", "192.0.2.1", "--queue-age", "soon"], "--queue-age: 'soon' is no time"),
    (["--role", "client", "--relay", "192.0.2.1", "--queue-run", "1h"], "--queue-run: 1h is longer"),
])
def test_a_mistake_is_named_with_its_option_and_what_would_be_right(arguments: list[str], said: str) -> None:
    for mta in ("sendmail", "postfix"):
        done = mta_config("--mta", mta, *arguments)
        assert (done.returncode, done.stdout) == (4, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_all_mistakes_are_named_at_once() -> None:
    done = mta_config("--mta", "postfix", "--role", "relay", "--relay", "x", "--network", "y", "--milter", "z")
    assert done.stderr.count("egressguard: mta-config: --") == 4
