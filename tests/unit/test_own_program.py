"""Our own programs start wherever the code lies; a Debian package keeps it where only its launcher looks."""

import shutil
import subprocess
import sys
from pathlib import Path

from egressguard import own_program

LAUNCHER = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from egressguard.own_program import own_program
sys.exit(subprocess.run(own_program("egressguard.hello", "a b"), cwd="/").returncode)
"""
HELLO = 'import sys\nif __name__ == "__main__":\n    print(__file__, sys.argv[1:])\n'


def test_a_program_is_found_beside_the_one_that_starts_it(tmp_path: Path) -> None:
    package = tmp_path / "python" / "egressguard"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "hello.py").write_text(HELLO)
    shutil.copy(own_program.__file__, package)
    done = subprocess.run([sys.executable, "-I", "-c", LAUNCHER, package.parent], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{package / 'hello.py'} ['a b']\n"), done.stderr
