"""One line per event on stderr, where systemd's journal picks it up with its own time stamp."""

import logging


def log_to_stderr() -> None:
    """Sends every log line of this process to stderr."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
