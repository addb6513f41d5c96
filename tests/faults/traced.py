"""What a command does to the world: files opened and changed, programs started, sockets made.

By strace where it works, which sees every system call; elsewhere by the audit events of Python
(PEP 578), which see what Python does, but not what a library in another language does by itself.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT
from tests.processes import PATIENCE


class Trace(NamedTuple):
    """A command's exit code and output, real paths it opened and changed, programs and sockets."""

    code: int
    out: str
    err: str
    opened: set[str]
    changed: set[str]
    programs: list[str]
    sockets: list[str]

    def outside(self, *own: Path) -> set[str]:
        """What was opened or changed that is neither the installation's, the system's, nor below `own`."""
        system = ("/proc", "/sys", "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/null")
        installed = (sys.prefix, sys.base_prefix, str(ROOT), *system, "/dev/urandom", "/dev/tty")
        mine = tuple(str(path.resolve()) for path in own)
        read = {path for path in self.opened if not _below(path, (*installed, *mine))}
        return read | {path for path in self.changed if not _below(path, mine)}


def trace(module: str, *arguments: object, directory: Path, seconds: float = PATIENCE) -> Trace:
    """Run `python -m MODULE ARGUMENTS` without a network; `directory` is for the trace's own files."""
    log = directory / "trace"
    log.mkdir(parents=True)
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(directory), "TMPDIR": str(directory)}
    if _works("unshare", "--net"):
        command = ["unshare", "--net", *command]
    if strace := _works("strace", "-qq", "-o", os.devnull):
        calls = "trace=%file,%network,process"
        command = ["strace", "-ff", "-qq", "-y", "-s", "4096", "-e", calls, "-o", str(log / "calls"), *command]
    else:
        (log / "sitecustomize.py").write_text(_AUDIT)
        environment |= {"PYTHONPATH": str(log), "AUDIT": str(log / "events")}
    # A reader of a pipe that nobody writes to would wait for ever.
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL
    )
    found = Trace(done.returncode, done.stdout.decode(), done.stderr.decode(), set(), set(), [], [])
    _read_calls(log, found) if strace else _read_events(log / "events", found)
    shutil.rmtree(log)
    return found


@cache
def _works(*command: str) -> bool:
    try:
        return subprocess.run([*command, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def _below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


_CHANGES = ("mkdir", "rmdir", "rename", "unlink", "link", "symlink", "chmod", "chown", "truncate", "mknod", "creat")
_NAMED = re.compile(r'(?:(?:\d+|AT_FDCWD)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')


def _read_calls(log: Path, found: Trace) -> None:
    for line in (line for path in log.glob("calls.*") for line in path.read_text(errors="replace").splitlines()):
        call, _, rest = line.partition("(")
        if call == "execve" and line.endswith("= 0"):
            found.programs.append(rest.split('"')[1])
        elif call == "socket" and "AF_UNIX" not in rest:
            found.sockets.append(rest)
        elif call.startswith("open") and (done := re.search(r"= \d+<(.*)>$", line)):
            writes = re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", rest)
            (found.changed if writes else found.opened).add(done.group(1))
        elif call.startswith(_CHANGES) and "= -1" not in line:
            found.changed.update(os.path.join(base, name) for base, name in _NAMED.findall(rest))
    # Python itself is started by unshare, if at all: neither is the command's doing.
    own = Path(sys.executable).name, "unshare"
    found.programs[:] = [name for name in found.programs if Path(name).name not in own]
    found.changed.discard("/dev/null")


_AUDIT = """
import json, os, sys
events = os.open(os.environ["AUDIT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
started = "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "socket.__new__"
changes = "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link"
def hook(event, arguments):
    if event == "open" or event in changes:
        paths = [os.path.realpath(os.fsdecode(x)) for x in arguments[:2] if isinstance(x, (str, bytes, os.PathLike))]
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        note = ["opened" if reads else "changed", paths[:1] if event == "open" else paths]
    elif event in started:
        note = ["sockets" if event.startswith("socket") else "programs", [event]]
    else:
        return
    os.write(events, json.dumps(note).encode() + b"\\n")
sys.addaudithook(hook)
"""


def _read_events(events: Path, found: Trace) -> None:
    for kind, values in map(json.loads, events.read_text().splitlines()):
        names = getattr(found, kind)
        names.update(values) if isinstance(names, set) else names.extend(values)
