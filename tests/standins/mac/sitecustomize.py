"""A stand-in for a Mac, for tests: on a device whose PYTHONPATH holds this, `uname` tells of macOS.

Nothing in edgebench knows of it. It stays a Linux computer: what is measured there is worth nothing.
"""

import os

_real = os.uname()
_told = ("Darwin", _real.nodename, "23.5.0", "Darwin Kernel Version 23.5.0 (a stand-in)", "arm64")
os.uname = lambda: os.uname_result(_told)
