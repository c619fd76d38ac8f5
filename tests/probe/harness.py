"""A real probe session in a real process, spoken to over pipes; and the files it is given."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import queue
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import edgebench

DEADLINE_S = 60.0
SOURCE = Path(edgebench.__file__).parent / "probe"
MAIN = "from edgebench_probe.__main__ import main\n\nmain()\n"
BEAT = b'{"event":"beat"}\n'  # the answer to a heartbeat
QUICK = {
    "threads": 1,
    "warmup_samples": 2,
    "max_warmup_s": 0.2,
    "min_samples": 20,
    "min_duration_s": 0.0,
    "max_duration_s": 5.0,
}


def build_zip(path: Path) -> Path:
    """The probe as one runnable zip file: a root `__main__.py` and the package `edgebench_probe/`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", MAIN)
        for source in sorted(SOURCE.rglob("*.py")):
            archive.write(source, f"edgebench_probe/{source.relative_to(SOURCE).as_posix()}")
    return path


def build_folder(path: Path) -> Path:
    """The same as a folder that Python runs."""
    with zipfile.ZipFile(build_zip(path.with_suffix(".pyz"))) as archive:
        archive.extractall(path)
    return path


class Probe:
    """One running session. Messages are read by a thread; every wait has a deadline."""

    def __init__(
        self, program: Path, work: Path, *, silence_s: float = 300.0, python: str = sys.executable
    ) -> None:
        argv = [python, str(program), "session", "--work", str(work), "--silence", str(silence_s)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.work = work
        self.lines: queue.Queue[bytes] = queue.Queue()
        self.stderr = b""
        self._ids = iter(range(1, 1 << 20))
        self._threads = [
            threading.Thread(target=read, daemon=True) for read in (self._read, self._read_stderr)
        ]
        for thread in self._threads:
            thread.start()
        self.hello = self.receive()
        self.pid = int(self.hello["pid"])  # the session; `process` is its guard

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if line != BEAT:
                self.lines.put(line)
        self.lines.put(b"")

    def _read_stderr(self) -> None:
        assert self.process.stderr
        self.stderr = self.process.stderr.read()

    def send(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        line = self.lines.get(timeout=DEADLINE_S)
        assert line, f"the session ended: {self.process.wait(DEADLINE_S)} {self.stderr!r}"
        assert line.isascii()
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def start(self, op: str, **fields: Any) -> int:
        """Send a request; its id."""
        number = next(self._ids)
        self.send(json.dumps({"id": number, "op": op, **fields}).encode() + b"\n")
        return number

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """The whole reply to a request; phases are kept in `phases`."""
        return self.reply(self.start(op, **fields))

    def reply(self, number: int) -> dict[str, Any]:
        self.phases: list[str] = []
        while True:
            message = self.receive()
            assert message["id"] == number
            if "event" not in message:
                return message
            self.phases.append(message["phase"])

    def result(self, op: str, **fields: Any) -> dict[str, Any]:
        """The result of a request that must succeed."""
        reply = self.ask(op, **fields)
        assert reply["ok"], reply["error"]
        result = reply["result"]
        assert isinstance(result, dict)
        return result

    def error(self, op: str, **fields: Any) -> dict[str, Any]:
        """The error of a request that must fail."""
        reply = self.ask(op, **fields)
        assert not reply["ok"], reply
        error = reply["error"]
        assert isinstance(error, dict)
        return error

    def until_phase(self, phase: str) -> None:
        """Wait until a launch has reached a phase."""
        while self.receive().get("phase") != phase:
            pass

    def lease(self) -> None:
        self.result(
            "lease",
            holder={"run": "r1", "controller": "here", "user": "me", "purpose": "test"},
            seconds=60,
            scope="folder",
        )

    def push(self, *contents: bytes) -> list[dict[str, Any]]:
        """Upload and commit; the files' entries."""
        files = [{"sha256": sha256(content), "size_bytes": len(content)} for content in contents]
        have = self.result("have", files=files)
        for entry, content in zip(files, contents, strict=True):
            if entry["sha256"] in have["missing"]:
                Path(have["incoming"], f"{entry['sha256']}.part").write_bytes(content)
                self.result("commit", **entry)
        return files

    def place(self, files: dict[str, bytes]) -> str:
        """The folder of an artifact with these files."""
        entries = self.push(*files.values())
        named = [{"path": path, **entry} for path, entry in zip(files, entries, strict=True)]
        path = self.result("assemble", digest=sha256(json.dumps(named).encode()), files=named)["path"]
        assert isinstance(path, str)
        return path

    def bundle(self, *wheels: bytes) -> str:
        """The folder of a bundle of these wheels."""
        digests = [entry["sha256"] for entry in self.push(*wheels)]
        path = self.result("unpack", digest=sha256("".join(digests).encode()), wheels=digests)["path"]
        assert isinstance(path, str)
        return path

    def end(self) -> int:
        """End politely; the exit status."""
        self.result("end")
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        for thread in self._threads:
            thread.join(DEADLINE_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel(files: dict[str, str]) -> bytes:
    """A wheel of these text files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds; a failed test at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The direct children of a process that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def running(pid: int) -> bool:
    """True while a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def spec(runtime: str, artifact: str, **changes: Any) -> dict[str, Any]:
    """A launch's spec."""
    plain: dict[str, Any] = {
        "runtime": runtime,
        "bundle": None,
        "artifact": artifact,
        "entry": {"model": "model.json"},
        "blobs": {},
        "options": {},
        "samples": [[]],
        "outputs": ["y"],
        "workload": QUICK,
        "timeout_s": DEADLINE_S,
    }
    return {**plain, **changes}


def files_below(folder: Path) -> Iterator[str]:
    """Relative names of all files below a folder."""
    return (os.path.relpath(path, folder) for path in sorted(folder.rglob("*")) if path.is_file())
