"""What a deferred client is told: which limit, and when to come back. Always temporary."""

import math

from egressguard_milter.limits import Decision

CODE = "451"
ENHANCED_CODE = "4.3.2"  # "system not accepting network messages", RFC 3463 section 3.4
MAX_LENGTH = 980  # libmilter drops longer lines: its MAXREPLYLEN, less code and line end


def reply_text(decision: Decision) -> str:
    """The text after the codes for a decision that is not accepted."""
    retry = f"try again in {max(1, math.ceil(decision.retry_s))} seconds"
    if decision.reason == "held":
        return escape(f"{decision.host} is held by the mail relay because it looks compromised; {retry}")
    if decision.reason == "full":
        return escape(f"the mail relay has too many clients at once; {retry}")
    tightened = f" ({decision.tier})" if decision.tier != "normal" else ""
    return escape(f"{decision.host} is over its limit of {decision.limit} messages "
                  f"in {decision.window_s:g} seconds{tightened}; {retry}")


def escape(text: str) -> str:
    """`text` as one reply line: printable ASCII, every % doubled, since libmilter formats with it."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in text)
    return plain[:MAX_LENGTH // 2].replace("%", "%%") if "%" in plain else plain[:MAX_LENGTH]
