"""What is asked of the Linux kernel through prctl(2); elsewhere nothing happens."""

import os
import signal
from typing import Optional

PR_SET_PDEATHSIG = 1


def die_with_parent(number: int = signal.SIGKILL, parent: Optional[int] = None) -> None:
    """Get this signal at the parent's death; at once where `parent` is gone already.

    The kernel sends it even while a library holds the interpreter, and it outlives an exec.
    """
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    except (ImportError, OSError, AttributeError):  # no ctypes, no libc by that name, no prctl (macOS)
        pass
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)
