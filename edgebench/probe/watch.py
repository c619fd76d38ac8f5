"""The session's side of the sampler: starts it once, tells it where a launch stands, takes its track.

Measuring never depends on it: a sampler that cannot start, dies or does not answer in time leaves a track
that says so.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, Optional

from . import wire
from .wire import Json

# together with the idle time less than what the controller allows a launch beyond its own time-out (30 s)
READY_S = 12.0  # a slow board's Python takes seconds to start
ANSWER_S = 8.0
IDLE_S = 3.0
SETTLE_S = 1.0  # before it: what ran last still warms a power sensor's mean
FILLED = ("before", "after")


class Watch:
    """At most one sampler process; `stop` kills it from any thread and lets no other begin."""

    def __init__(self, program: str, folder: str, token: str) -> None:
        self._argv = [sys.executable, program, "sampler"]
        self._folder = folder
        self._token = token
        self._guard = threading.Lock()
        self._stopping = False
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._idle: Optional[Json] = None
        self._power = False

    @contextlib.contextmanager
    def over(self) -> "Iterator[Watch]":
        """The time of one launch. Before the first one the idle power is measured, where there are rails.

        The sampler stays for the next launch; after one that failed nothing is left running.
        """
        self._begin()
        try:
            yield self
        except BaseException:
            self._kill()
            raise

    def _begin(self) -> None:
        if self._process is None:
            self._start()
        if self._idle is None and self._process is not None:
            self._idle = self._measure_idle() if self._power else {}
        self._send({"begin": True})

    def phases(self, on_phase: Callable[[str], None]) -> Callable[[str], None]:
        """`on_phase` that tells the sampler too."""

        def both(phase: str) -> None:
            if phase in ("samples", "done"):
                self._send({"mark": phase})
            on_phase(phase)

        return both

    def end(self) -> Json:
        """{"track", "before", "after"}: a field of Launch, and conditions as the device's tools tell them."""
        self._send({"end": True})
        answer = self._receive(ANSWER_S)
        track = answer.get("track")
        if not isinstance(track, dict):
            self._kill()
            return {"track": {"unknown": ["everything: the sampler did not answer"]}}
        track.update(self._idle or {})
        return answer

    def stop(self) -> None:
        """Kill the sampler; none starts afterwards."""
        with self._guard:
            self._stopping = True
        self._kill()

    # --- the process ---

    def _start(self) -> None:
        with self._guard:
            if self._stopping:
                return
            try:
                self._process = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=self._folder,
                    env=self._environment(),
                    start_new_session=True,
                )
            except OSError:
                return
        ready = self._receive(READY_S)
        self._power = bool(ready.get("power"))
        if not ready:
            self._kill()

    def _environment(self) -> Dict[str, str]:
        return dict(os.environ, PYTHONDONTWRITEBYTECODE="1", EDGEBENCH_RUN=self._token, TMPDIR=self._folder)

    def _measure_idle(self) -> Json:
        """The fields of Track about the quiet board."""
        time.sleep(SETTLE_S)
        self._send({"begin": True})
        self._send({"mark": "samples"})
        time.sleep(IDLE_S)
        self._send({"end": True})
        track = self._receive(ANSWER_S).get("track") or {}
        power = track.get("power_mw") or {}
        return {"idle_power_mw": power.get("mean"), "idle_readings": power.get("readings", 0)}

    def _send(self, message: Json) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            os.write(process.stdin.fileno(), wire.encode(message))
        except (OSError, ValueError):  # it died; `end` finds out
            pass

    def _receive(self, timeout_s: float) -> Json:
        """The next message, or {} when none comes in time."""
        process = self._process
        if process is None or process.stdout is None:
            return {}
        lines, deadline = wire.LineReader(), time.monotonic() + timeout_s
        try:
            while True:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not select.select([process.stdout], [], [], left_s)[0]:
                    return {}
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    return {}
                for line in lines.feed(chunk):
                    return wire.parse(line or b"{}")
        except (OSError, ValueError):
            return {}

    def _kill(self) -> None:
        with self._guard:
            process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:  # gone already
            pass
        process.wait()
        for pipe in (process.stdin, process.stdout):
            _close(pipe)


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:
        pass


def filled(result: Json, watched: Json) -> Json:
    """A launch's result with its track, and with what the launch itself could not ask the device's tools."""
    whole = dict(result, track=watched["track"])
    for moment in FILLED:
        own, others = result.get(moment), watched.get(moment)
        if isinstance(own, dict) and isinstance(others, dict):
            unknown = {name: others[name] for name in own if own[name] in (None, [], {}) and name in others}
            whole[moment] = dict(own, **unknown)
    return whole
