"""Python's own record of what is done (audit events): whether anything was executed, opened to be written, or reached for."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ACTS = frozenset({
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "os.kill",
    "os.putenv",
    "shutil.rmtree", "shutil.move", "shutil.copyfile", "socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen",
    "ftplib.connect", "urllib.Request", "webbrowser.open", "code.__new__", "function.__new__", "builtins.input",
})  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Watch:
    def __init__(self) -> None:
        self.thread: int | None = None
        self.seen: list[str] = []

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() != self.thread:
            return
        if event == "open":
            path, mode, flags = (*arguments, None, None, None)[:3]
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITING):
                self.seen.append(f"open({path!r:.80}, {mode!r}, {flags})")
        elif event == "compile" and arguments[1] in ("<string>", b"<string>", None):
            self.seen.append(f"compile({arguments[0]!r:.80})")
        elif event == "import" and str(arguments[0]).partition(".")[0] not in _KNOWN:
            self.seen.append(f"import({arguments[0]})")
        elif event in ACTS:
            self.seen.append(f"{event}{arguments!r:.80}")


_WATCH = _Watch()
_KNOWN: set[str] = set()
"""What may be imported late: what is there already, and Python's own."""


@contextmanager
def guarded() -> Iterator[list[str]]:
    """What was done in the block, by Python: nothing is what it should be. A hook stays for good, so there is one.

    In this thread: Ray's own, where a driver has been, go on with what they do.
    """
    if not _KNOWN:
        sys.addaudithook(_WATCH.hear)
    _KNOWN.update(sys.stdlib_module_names, (name.partition(".")[0] for name in list(sys.modules)))
    seen: list[str] = []
    _WATCH.seen = seen
    _WATCH.thread = threading.get_ident()
    try:
        yield seen
    finally:
        _WATCH.thread = None
