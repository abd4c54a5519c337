"""`python -I -S die_with_parent.py PARENT_PID COMMAND...`: run COMMAND, to get SIGTERM when the parent dies.

A program of its own, because the alternative (code between fork and exec) may deadlock in a parent
with threads. On systems other than Linux it only runs the command. Standard library only.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Bind this process to its parent, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
