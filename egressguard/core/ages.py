"""Times as people say them."""


def ago(seconds: float) -> str:
    """A time to a second, later to a minute or an hour."""
    seconds = max(0.0, seconds)
    return f"{seconds:.0f} s" if seconds < 120 else _long(seconds)


def to_a_tenth(seconds: float | None) -> str:
    """The same of what may be very young; unknown where there is no such time."""
    if seconds is None:
        return "unknown"
    return f"{seconds:.1f} s" if seconds < 100 else _long(seconds)


def _long(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
