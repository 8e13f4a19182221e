"""`egressguard`, or `python -m egressguard`: Ctrl-C ends it in silence even while it is being imported."""

import sys


def main() -> None:
    """The entry point."""
    try:
        from egressguard.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
