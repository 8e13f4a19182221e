"""Starts another program of this distribution with the interpreter and the code that this one runs with."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
       "runpy.run_module(sys.argv.pop(1), None, '__main__')")


def own_program(module: str, *arguments: str) -> list[str]:
    """The words that run `module` as a program.

    Not `python -m`: a Debian package keeps its code where an interpreter looks only if its launcher says so.
    Isolated like the launcher, so that no variable and no folder of a user decides what runs with our rights.
    """
    return [sys.executable, "-I", "-c", RUN, str(ROOT), module, *arguments]
