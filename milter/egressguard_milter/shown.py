"""The answers of a running milter as text. Whatever a client wrote in them is escaped."""

from typing import Any

Answer = dict[str, Any]
MOST_WORDS = 40  # characters


def status(answer: Answer) -> str:
    """How the milter is."""
    accounts = ", ".join(f"{count} {pool}" for pool, count in answer["accounts"].items())
    lines = [f"{answer['relay']}: {'healthy' if answer['healthy'] else 'DEGRADED'}, "
             f"up {answer['uptime_s']:.0f} s",
             *(f"  fault     {fault}" for fault in answer["faults"]),
             f"  messages  {answer['accepted']} accepted, {answer['deferred']} deferrals",
             f"  sessions  {answer['sessions']} of {answer['max_sessions']}"
             + (f" ({answer['room']})" if answer["room"] else ""),
             f"  accounts  {accounts} (of {answer['max_clients']} each)",
             f"  verdicts  {answer['under_verdict']} in force, "
             f"{'a router is heard' if answer['routers_heard'] else 'no router is heard: base limits'}"]
    if answer["switched_off"]:
        lines.append(f"  off       {', '.join(answer['switched_off'])}")
    return _plain("\n".join(lines))


def clients(answer: Answer) -> str:
    """The most recently active clients."""
    rows = [("client", "tier", "limit", "accepted", "deferred", "recipients", "refused", "senders",
             "domains")]
    rows += [(c["client"], c["tier"], str(c["limit"]), str(c["accepted"]), str(sum(c["deferred"].values())),
              str(c["recipients"]), str(c["refused_recipients"]), str(c["senders"]), str(c["domains"]))
             for c in answer["clients"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return _plain("\n".join("  ".join(row).rstrip() for row in padded))


def explain(answer: Answer) -> str:
    """What a client may do and why."""
    if "tier" not in answer:
        return _plain("\n".join([f"{answer['client']}: {answer['open_connections']} connections open",
                                 *(f"  {_use(row)}" for row in answer["limits"] or ())]))
    lines = [f"{answer['client']}: {answer['tier']} (verdict {answer['verdict']}), "
             f"{'named in the policy' if answer['known'] else 'a stranger to the policy'}"
             + (f", group {answer['group']}" if answer["group"] else "")]
    if answer["key"] != answer["client"]:
        lines.append(f"  counted as {answer['key']}")
    lines += [f"  {_told(row)}" for row in answer["told"]]
    lines += [f"  {_use(row)}  from {row['source']}" for row in answer["limits"]]
    lines += [f"  {name} at most {row['most']}  from {row['source']}"
              for name, row in answer["levels"].items()]
    lines += [f"  shared, {key}: {_use(row)}" for key, rows in answer["shared"].items() for row in rows]
    return _plain("\n".join([*lines, f"  connections open: {answer['open_connections']}"]))


def forgive(answer: Answer) -> str:
    """Whether there was anything to forgive."""
    outcome = "forgiven" if answer["forgiven"] else "nothing counted against it"
    return _plain(f"{answer['client']}: {outcome}")


def reload(answer: Answer) -> str:
    """What a reload changed."""
    later = answer["at_next_start"]
    return _plain("reloaded" + (f"; takes effect at the next start: {', '.join(later)}" if later else ""))


def _told(row: Answer) -> str:
    """What a router says; its words are cut, since a router that was broken into may write what it likes."""
    cause = f": looks like a {row['cause'][:MOST_WORDS]}" if row["cause"] else ""
    return f"{row['verdict']} says {row['router'][:MOST_WORDS]}{cause}"


def _use(row: Answer) -> str:
    return f"{row['limit']} {row['used']} of {row['most']} in {row['window_s']:g} s"


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
