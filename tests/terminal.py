"""A command as a person runs it: at a terminal, typing an answer to every prompt."""

from __future__ import annotations

import os
import pty
from collections.abc import Mapping, Sequence
from contextlib import suppress


def at_a_terminal(
    command: Sequence[str], answers: Sequence[str], environment: Mapping[str, str]
) -> int:
    """Run it, give each answer when it is asked for; returns the exit code.

    It waits without a limit of its own: that of the test is one.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], list(command), environment)
    for answer in answers:
        text = ""
        while not text.rstrip().endswith(":"):
            text += os.read(terminal, 4096).decode()
        os.write(terminal, f"{answer}\n".encode())
    with suppress(OSError):  # how the other end of a terminal says that it is gone
        while os.read(terminal, 4096):
            pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
