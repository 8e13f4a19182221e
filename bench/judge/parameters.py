"""What the simulator assumes, each with where it comes from. docs/judging.md repeats this table for readers.

Three sets of ranges: DEVELOPMENT is what weights were chosen on, EVALUATION what the figures come from, with
other seeds as well; `perturbed` stretches one assumption at a time, to see where the judge breaks.
"""

from dataclasses import dataclass, replace

Range = tuple[float, float]


@dataclass(frozen=True)
class Parameters:
    """Every range is drawn from uniformly, per host; times in seconds."""

    # TRACElabs 2009: up to 25,000 messages an hour from one machine (6.9 a second); the lower end is assumed.
    bot_per_second: Range = (0.3, 7.0)
    # Assumed, because a list that is sorted by recipient meets an address again now and then.
    bot_repeats: Range = (0.0, 0.12)
    # J. Levine, "Greylisting still works, part II": of 10,616 addresses 36 % did not retry, 31 % within a
    # minute.
    bot_retries_soon: float = 0.31
    bot_retries_late: float = 0.33
    # Assumed, because what sends less than this per hour is within a normal relay limit anyhow.
    slow_per_hour: Range = (4.0, 30.0)
    slow_by_timer: float = 0.2
    burst_size: Range = (20, 200)
    burst_pause_s: Range = (600, 7200)
    # Assumed: a small firm's to a hoster's relay client. MX per domain: assumed from provider concentration;
    # Postfix tries up to five (postconf -d smtp_mx_address_limit).
    queue_domains: Range = (5, 300)
    at_providers: Range = (0.3, 0.6)
    record_over_queue: Range = (1.0, 4.0)
    mail_per_hour: Range = (1.0, 60.0)
    # Assumed: somebody sees that no mail arrives.
    repaired_after_s: Range = (3600, 5 * 86400)
    # getaddrinfo() order: a client tries one address after the other. Assumed: a provider's smarthost has
    # few.
    smarthost_addresses: Range = (1, 4)
    visits_per_day: Range = (2, 200)
    tries_per_visit: Range = (1, 3)
    # Debian's Nagios template: every 5 min, after a failure every minute, four times; a Prometheus scrape:
    # 15-60 s.
    probe_interval_s: Range = (15, 300)
    # Assumed: monitoring looks at a few outside servers; more belong into the configuration as a sender.
    probe_destinations: Range = (1, 4)
    # Assumed: one machine in twenty behind a NAT has a misconfigured application.
    nat_machines: Range = (10, 80)
    nat_misconfigured: float = 0.05
    dhcp_lease_s: Range = (86400, 7 * 86400)
    dhcp_misconfigured: float = 0.1
    # RFC 8981 3.8: TEMP_PREFERRED_LIFETIME is a day. How many machines share a /64, and how many bots take a
    # new address for each connection, is assumed.
    privacy_lifetime_s: float = 86400.0
    privacy_machines: Range = (1, 40)
    bot_changes_addresses: float = 0.5
    # Assumed: what a compromised web server mails by its relay besides.
    relay_domains: Range = (3, 60)
    relay_every_s: Range = (30, 1800)
    bot_uses_both_doors: float = 0.5
    # Of servers that lose their way in the middle of deliveries: Postfix has 20 at once (postconf -d
    # default_destination_concurrency_limit); how long one takes, and how often that happens, is assumed.
    lost_in_delivery: float = 0.3
    in_flight: Range = (1, 20)
    transaction_s: float = 2.0
    # Assumed: after a repair the host mails by the relay each minute; somebody tries the direct way once
    # more.
    stray_after_repair: float = 0.3
    stray_after_s: Range = (5400, 3 * 86400)
    # For `perturbed` only: a server that loses its way for a part of its mail.
    some_mail_goes_on: bool = False
    reports: bool = True
    settling: bool = True


DEVELOPMENT = Parameters(
    bot_per_second=(0.5, 3.0), bot_repeats=(0.02, 0.08), slow_per_hour=(6.0, 20.0), burst_size=(30, 100),
    queue_domains=(10, 150), at_providers=(0.4, 0.5), visits_per_day=(5, 80), smarthost_addresses=(1, 3),
    probe_interval_s=(60, 300), nat_machines=(10, 50), relay_domains=(5, 30))
EVALUATION = Parameters()


def perturbed() -> dict[str, Parameters]:
    """EVALUATION with one assumption stretched."""
    e = EVALUATION
    return {
        "as evaluated": e,
        "bots repeat 30 to 50 %": replace(e, bot_repeats=(0.3, 0.5)),
        "bots all retry after a minute": replace(e, bot_retries_soon=0.0, bot_retries_late=1.0),
        "slow bots: 2 to 4 an hour": replace(e, slow_per_hour=(2.0, 4.0)),
        "slow bots: all by timer": replace(e, slow_by_timer=1.0),
        "smarthosts with 5 to 8 addresses": replace(e, smarthost_addresses=(5, 8)),
        "monitoring of 5 to 10 servers": replace(e, probe_destinations=(5, 10)),
        "NAT: a fifth misconfigured": replace(e, nat_misconfigured=0.2),
        "queues of 300 to 1000 domains": replace(e, queue_domains=(300, 1000)),
        "no relay reports": replace(e, reports=False),
        "lost way for a part of the mail": replace(e, some_mail_goes_on=True),
        "deliveries of 10 s at the relay": replace(e, transaction_s=10.0, lost_in_delivery=1.0),
        "block long known (no settling)": replace(e, settling=False),
    }
