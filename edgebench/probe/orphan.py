"""How a child of the session makes sure not to outlive it."""

import signal

PR_SET_PDEATHSIG = 1


def die_with_session() -> None:
    """Ask the kernel for SIGKILL at the session's death: it works while a library has the interpreter."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    except (ImportError, OSError, AttributeError):  # no ctypes, no libc by that name, no prctl (macOS)
        pass
