"""What a deferred client is told: which limit, and when to come back. Always temporary."""

import math

from egressguard_milter.decision import CONNECTION_LIMITS, Decision

CONNECTION = ("421", "4.5.1")  # ze-filter's codes, so that log readers and customers know them
OTHER = ("451", "4.3.2")
MAX_LENGTH = 980  # an SMTP reply line has 1,000 bytes at most, less code and line end
COUNTED = {
    "connections": "connections", "messages": "messages", "recipients": "recipients",
    "refused_recipients": "refused recipients", "open_connections": "connections at once",
    "recipients_per_message": "recipients per message", "messages_per_connection": "messages per connection",
}


def codes(decision: Decision) -> tuple[str, str]:
    """The reply code and the enhanced one."""
    return CONNECTION if decision.limit in CONNECTION_LIMITS else OTHER


def reply_text(decision: Decision) -> str:
    """The text after the codes for a decision that is not accepted."""
    retry = f"try again in {max(1, math.ceil(decision.retry_s))} seconds"
    if decision.limit == "held":
        return escape(f"{decision.host} is held by the mail relay because it looks compromised; {retry}")
    if decision.limit == "sessions":
        return escape(f"the mail relay has too many connections at once; {retry}")
    tightened = f" ({decision.tier})" if decision.tier != "normal" else ""
    window = f" in {decision.window_s:g} seconds" if decision.window_s else ""
    return escape(f"{decision.key} is over its limit of {decision.most} {COUNTED[decision.limit]}"
                  f"{window}{tightened}; {retry}")


def escape(text: str) -> str:
    """`text` as one reply line: printable ASCII, every % doubled, since sendmail formats with it."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in text)
    return plain[:MAX_LENGTH // 2].replace("%", "%%") if "%" in plain else plain[:MAX_LENGTH]
