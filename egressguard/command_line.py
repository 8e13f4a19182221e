"""What both commands share: examples in their help, shell completion, and an end without a traceback."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping

import click
from click.shell_completion import get_completion_class

from egressguard.core.errors import EgressguardError

SHELLS = {
    "bash": "/etc/bash_completion.d/{program}",
    "zsh": "/usr/local/share/zsh/site-functions/_{program}",
    "fish": "/etc/fish/completions/{program}.fish",
}
INTERRUPTED, UNREAD = 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells have it


def add_examples(group: click.Group, examples: Mapping[str, str]) -> None:
    """Puts each command's examples, a line each, at the end of its help; `group verb` names what is below."""
    for name, command in commands_of(group).items():
        if name in examples:
            lines = [line.strip() for line in examples[name].strip().splitlines()]
            command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def commands_of(group: click.Group, above: str = "") -> dict[str, click.Command]:
    """Every command of a group and of the groups below it, by its words."""
    found: dict[str, click.Command] = {}
    for name, command in sorted(group.commands.items()):
        found[above + name] = command
        if isinstance(command, click.Group):
            found |= commands_of(command, f"{above}{name} ")
    return found


def completion(program: str) -> click.Command:
    """The command `completion`, which prints what a shell needs to complete `program`'s words."""
    where = "\n\n".join(f"{shell}: {path.format(program=program)}" for shell, path in SHELLS.items())

    @click.command("completion", help=f"Print the completion script for SHELL.\n\nIts place:\n\n{where}")
    @click.argument("shell", type=click.Choice(list(SHELLS)))
    def command(shell: str) -> None:
        kind = get_completion_class(shell)
        if kind is None:
            raise EgressguardError(f"completion: this version of click knows no {shell}")
        variable = f"_{program}_COMPLETE".replace("-", "_").upper()
        click.echo(kind(click.Command(program), {}, program, variable).source())

    return command


def finish(program: str, work: Callable[[], object], failed: int) -> int:
    """The exit code of `work`: `failed` after an error, whose message is printed and not its trace."""
    output = sys.stdout
    try:
        code = work()
    except click.ClickException as error:
        error.show()
        _answer(error.format_message())
        return failed
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except EgressguardError as error:
        fail(program, str(error))
        return failed
    except SystemExit as end:
        # When nobody reads any more, click ends with 1, which from `status` means a compromised host, and
        # replaces standard output by one that cannot fail.
        return _code(end.code) if sys.stdout is output else UNREAD
    except Exception:
        traceback.print_exc()
        fail(program, f"this is a defect in {program}; please report it")
        return failed
    return _code(code)


def fail(program: str, text: str) -> None:
    """Says `text` on standard error, and to whoever asked for JSON on standard output."""
    for line in text.splitlines():
        click.echo(f"{program}: {line}", err=True)
    _answer(text)


def _answer(error: str) -> None:
    if "--json" not in sys.argv[1:]:
        return
    try:
        click.echo(json.dumps({"error": error}))
    except BrokenPipeError:  # nor may the flush at the end fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _code(value: object) -> int:
    return value if isinstance(value, int) else 0
