"""Reading small files of /proc, /sys and /etc below a root folder. What cannot be read is None, never 0."""

import glob
import os
import re
from typing import Any, Dict, List, Optional

MAX_BYTES = 1 << 20
TOOL_TIMEOUT_S = 10
_DIGITS = re.compile(r"(\d+)")


class Tree:
    """A file tree: "/" on a device, a folder of recorded files in a test. Names are relative to the root."""

    def __init__(self, root: str = "/") -> None:
        self.root = root
        self.live = root == "/"

    def text(self, name: str, limit: int = MAX_BYTES) -> Optional[str]:
        """The file's text, stripped of white space and NULs, or None."""
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                return file.read(limit).decode("utf-8", "replace").strip(" \t\r\n\0")
        except (OSError, ValueError):  # sensors answer EAGAIN or EINVAL when they sleep
            return None

    def number(self, name: str) -> Optional[int]:
        """The integer that the file holds, or None."""
        text = self.text(name, 64)
        try:
            return int(text) if text else None
        except ValueError:
            return None

    def names(self, pattern: str) -> List[str]:
        """Existing names that match a glob pattern, in natural order (cpu2 before cpu10)."""
        prefix = os.path.join(glob.escape(self.root), "")
        found = glob.glob(prefix + pattern)
        return sorted((os.path.relpath(each, self.root) for each in found), key=_natural)

    def first(self, pattern: str) -> Optional[str]:
        """The text of the first file that matches and can be read, or None."""
        for name in self.names(pattern):
            text = self.text(name)
            if text is not None:
                return text
        return None

    def table(self, name: str) -> Dict[str, str]:
        """{key: value} of a file of `key: value` lines (/proc/meminfo); the first of equal keys counts."""
        found: Dict[str, str] = {}
        for line in (self.text(name) or "").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                found.setdefault(key.strip(), value.strip())
        return found


def kilobytes(table: Dict[str, str], key: str) -> Optional[int]:
    """Bytes of a `123 kB` value, or None."""
    number = table.get(key, "").split(" ")[0]
    return int(number) * 1024 if number.isdecimal() else None


def pids() -> List[int]:
    """Every process of this machine; none where there is no /proc."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()] if os.path.isdir("/proc") else []


def run_tool(path: str, *arguments: str) -> str:
    """Stdout of a system tool given by its absolute path; "" when it is absent, fails or hangs."""
    if not os.access(path, os.X_OK):
        return ""
    import subprocess  # slow to import, and most boards need no tool

    try:
        done = subprocess.run(
            (path,) + arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TOOL_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout[:MAX_BYTES].decode("utf-8", "replace")


def first_line(path: str, *arguments: str) -> str:
    """The first line that an endless tool prints, which is then killed; "" when it says nothing in time."""
    if not os.access(path, os.X_OK):
        return ""
    import select
    import subprocess

    try:
        process = subprocess.Popen(
            (path,) + arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return ""
    output: Any = process.stdout
    try:
        if not select.select([output], [], [], TOOL_TIMEOUT_S)[0]:
            return ""
        return os.read(output.fileno(), 65536).decode("utf-8", "replace").split("\n")[0]
    finally:
        process.kill()
        process.wait()
        output.close()


def _natural(name: str) -> List[Any]:
    return [int(part) if part.isdecimal() else part for part in _DIGITS.split(name)]
