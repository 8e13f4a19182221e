"""What an operator sees on a real terminal: `status --watch` draws, resizes, and ends with Ctrl-C without a trace."""

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest

from lab.deployment import PROGRAMS, Deployment
from lab.namespaces import wait_until
from lab.topology import SOMEBODY4
from lab.traffic import bot_tries_the_first_door

CONTROL = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")
COLOUR = re.compile(rb"\x1b\[[0-9;]*m")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, argv: list[str], rows: int, columns: int, more: Mapping[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        env={**environment, "TERM": "xterm-256color", **more},
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds: float = 0.1) -> bytes:
        """What came since the last call."""
        before, deadline = len(self.seen), time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.master, 65536)
                except OSError:  # the other side is closed
                    break
        return self.seen[before:]

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text.encode() in (self.read(), self.seen)[1], f"{text!r} on the terminal")

    def frame(self) -> bytes:
        """The last picture that was drawn whole; each begins in the upper left corner."""
        self.read()
        return ([b"", *self.seen.split(b"\x1b[H")])[-2]

    def drawn(self) -> int:
        """How many pictures there were."""
        self.read()
        return self.seen.count(b"egressguard on")

    def wait_for_frame(self, right: Callable[[bytes], bool], what: str) -> None:
        wait_until(lambda: right(self.frame()), f"{what}; the last picture was {self.frame()!r}")

    def press_ctrl_c(self) -> int:
        os.write(self.master, b"\x03")
        wait_until(lambda: (self.read(), self.process.poll())[1] is not None, "the end after Ctrl-C")
        return self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def router(site: Deployment) -> Deployment:
    site.start_router()
    bot_tries_the_first_door(site.world.web2)
    return site


def on_terminal(site: Deployment, *words: str, rows: int = 24, columns: int = 80,
                more: Mapping[str, str] | None = None) -> Terminal:
    return Terminal(["nsenter", f"--net={site.world.router.path}", str(PROGRAMS / "egressguard"), *words, "--config",
                     str(site.router_config)], rows, columns, more or {})


def widths(screen: bytes) -> set[int]:
    return {len(line) for line in CONTROL.sub(b"", screen).decode(errors="replace").splitlines()}


def test_watch_draws_again_resizes_and_ends_with_ctrl_c(router: Deployment) -> None:
    terminal = on_terminal(router, "status", "--watch")
    terminal.wait_for("compromised")
    wait_until(lambda: terminal.drawn() >= 3, "three pictures")
    assert max(widths(terminal.frame())) <= 80
    terminal.resize(12, 60)
    terminal.wait_for_frame(lambda frame: b"egressguard on" in frame and max(widths(frame)) <= 60, "a narrow picture")
    assert terminal.press_ctrl_c() == 0
    assert b"Traceback" not in terminal.seen
    assert b"\x1b[?25h" in terminal.seen[-40:], "the cursor is shown again"
    assert b"\x1b[?1049l" in terminal.seen, "and what stood on the screen before is back"
    terminal.close()


def test_watch_goes_on_while_the_configuration_is_wrong(router: Deployment) -> None:
    good = router.router_config.read_text()
    terminal = on_terminal(router, "status", "--watch")
    terminal.wait_for("compromised")
    router.router_config.write_text("mode = ")
    terminal.wait_for_frame(lambda frame: b"is not TOML" in frame, "the mistake")
    router.router_config.write_text(good)
    terminal.wait_for_frame(lambda frame: b"compromised" in frame, "the status again")
    assert terminal.press_ctrl_c() == 0
    terminal.close()


def test_without_a_terminal_watch_says_what_to_do(router: Deployment) -> None:
    done = router.egressguard("status", "--watch")
    assert (done.returncode, done.stdout) == (4, "")
    assert "status --json" in done.stderr


@pytest.mark.parametrize("words", [["status"], ["hosts"], ["doctor"], ["history"]])
def test_ctrl_c_leaves_no_traceback(router: Deployment, words: list[str]) -> None:
    for after_s in (0.05, 0.2, 0.4, 0.8):
        terminal = on_terminal(router, *words)
        terminal.read(after_s)
        if terminal.process.poll() is None:
            terminal.press_ctrl_c()
        # Python, and what pip writes around us, before our first line are not ours to silence.
        assert not re.search(rb'File "[^"]*/egressguard/[^"]*\.py"', terminal.seen), terminal.seen
        terminal.close()


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_is_for_terminals_that_want_it(router: Deployment, more: Mapping[str, str], coloured: bool) -> None:
    terminal = on_terminal(router, "status", more=more)
    wait_until(lambda: (terminal.read(), terminal.process.poll())[1] is not None, "the end")
    terminal.read()
    codes = {code for code in COLOUR.findall(terminal.seen) if code not in (b"\x1b[0m", b"\x1b[1m", b"\x1b[m")}
    assert bool(codes) == coloured
    terminal.close()
    assert not CONTROL.search(router.egressguard("status").stdout.encode()), "none in a pipe"


def test_a_small_screen_shows_the_worst_hosts_and_how_many_are_left_out(site: Deployment) -> None:
    site.start_router()
    for n in range(30):
        site.world.web1.ip(f"address add 198.51.100.{100 + n}/32 dev eth0")
    for n in range(30):
        site.world.web1.call(_knock, f"198.51.100.{100 + n}")
    bot_tries_the_first_door(site.world.web2)
    terminal = on_terminal(site, "status", "--watch")
    terminal.wait_for("more: egressguard hosts")
    terminal.wait_for_frame(lambda frame: b"198.51.100.12" in frame and b"more: egressguard" in frame, "the worst one")
    assert terminal.press_ctrl_c() == 0
    terminal.close()


def _knock(source: str) -> None:
    with socket.socket() as client, suppress(OSError):
        client.settimeout(2)
        client.bind((source, 0))
        client.connect((SOMEBODY4, 25))
