"""A section 8 page from a command's own tree of help texts."""

import inspect
import re

import click

from egressguard.command_line import commands_of
from manpages.roff import example, heading, inline, item, page, paragraph, subheading, title


def command_page(name: str, summary: str, group: click.Group, version: str, files: dict[str, str],
                 see_also: str) -> str:
    """The page of the command `name`."""
    context = click.Context(group, info_name=name)
    return page([
        title(name, 8, version), heading("NAME"), f"{inline(name)} \\- {inline(summary)}\n",
        heading("SYNOPSIS"), paragraph(f"`{name}` COMMAND [OPTION…] [ARGUMENT…]"),
        heading("DESCRIPTION"), *_help(group), *_options(group, context),
        heading("COMMANDS"), *(_command(f"{name} {words}", c) for words, c in commands_of(group).items()),
        heading("ENVIRONMENT"), item("NO_COLOR", "Set to anything: no colour, on a terminal either."),
        heading("FILES"), *(item(path, text) for path, text in files.items()),
        heading("SEE ALSO"), paragraph(see_also)])


def _command(words: str, command: click.Command) -> str:
    context = click.Context(command, info_name=words)
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    return "".join([subheading(usage), *_help(command), *_options(command, context), _examples(command)])


def _help(command: click.Command) -> list[str]:
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    return [paragraph(part) for part in re.split(r"\n\s*\n", text) if part]


def _options(command: click.Command, context: click.Context) -> list[str]:
    records = (p.get_help_record(context) for p in command.get_params(context) if isinstance(p, click.Option))
    return [item(*record) for record in records if record is not None]


def _examples(command: click.Command) -> str:
    lines = (command.epilog or "").removeprefix("\b\n").splitlines()
    return paragraph("Examples:") + example(line.strip() for line in lines[1:]) if lines else ""
