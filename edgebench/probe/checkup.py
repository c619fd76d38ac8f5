"""What a doctor wants to know beside facts and conditions. Nothing is changed, and no lease is needed."""

import fcntl
import os
import time
from typing import Dict, List, Optional, Tuple

from .knobs import sudoers_line
from .preparation import Preparation
from .store import free_bytes
from .tree import Tree, pids
from .wire import Json, ProbeError

WATCH_S = 0.5
BUSIEST = 3
IDLE_SHARE = 0.02  # below, a process is not worth a name
MAX_PROCESSES = 20000


def read(work: str, own_run: str, preparation: Preparation, wanted: Optional[Json]) -> Json:
    """The answer to `checkup`; `wanted` is the preparation that the inventory asks for."""
    problem, sudoers = (None, None) if wanted is None else _obstacle(preparation, wanted)
    return {
        "unix_s": time.time(),
        "busiest": busiest(),
        "free_bytes": free_bytes(work),
        "used_bytes": used_bytes(work),
        "leftovers": leftovers(work, own_run),
        "prepared": preparation.described(),
        "prepare_problem": problem,
        "sudoers": sudoers,
    }


def busiest() -> List[Json]:
    """[{pid, name, cores}] of the other processes that keep the processor busiest just now."""
    before, began_s = _ticks(), time.monotonic()
    time.sleep(WATCH_S)
    after, wall_s = _ticks(), time.monotonic() - began_s
    rate = float(os.sysconf("SC_CLK_TCK")) * wall_s
    own = {os.getpid(), os.getppid()}
    shares = [
        ((ticks - before[pid][0]) / rate, pid, name)
        for pid, (ticks, name) in after.items()
        if pid in before and pid not in own
    ]
    shares.sort(reverse=True)
    return [
        {"pid": pid, "name": name, "cores": round(cores, 2)}
        for cores, pid, name in shares[:BUSIEST]
        if cores > IDLE_SHARE
    ]


def _ticks() -> Dict[int, Tuple[int, str]]:
    found = {}
    for pid in pids()[:MAX_PROCESSES]:
        stat = parse_stat(Tree().text("proc/%d/stat" % pid, 4096) or "")
        if stat is not None:
            found[pid] = stat
    return found


def parse_stat(text: str) -> Optional[Tuple[int, str]]:
    """(ticks of processor time, name) of /proc/PID/stat, whose name may hold spaces and brackets."""
    head, bracket, tail = text.rpartition(")")
    fields = tail.split()
    try:
        return (int(fields[11]) + int(fields[12]), head.partition("(")[2][:64]) if bracket else None
    except (ValueError, IndexError):
        return None


def used_bytes(work: str) -> int:
    """The bytes in the work folder; a file with several names counts once."""
    sizes = {}
    for folder, _, names in os.walk(work):
        for name in names:
            try:
                status = os.lstat(os.path.join(folder, name))
            except OSError:
                continue
            sizes[(status.st_dev, status.st_ino)] = status.st_size
    return sum(sizes.values())


def leftovers(work: str, own_run: str) -> List[str]:
    """Names of run folders whose sessions are gone."""
    runs = os.path.join(work, "runs")
    try:
        names = sorted(os.listdir(runs))
    except OSError:
        return []
    return [
        name for name in names if name != os.path.basename(own_run) and _is_dead(os.path.join(runs, name))
    ]


def _is_dead(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _obstacle(preparation: Preparation, wanted: Json) -> Tuple[str, str]:
    """(why the board cannot be prepared, the sudoers line that is missing); "" where nothing is wrong."""
    try:
        missing = preparation.lacking(wanted)
    except ProbeError as error:
        return error.message, ""
    return "", (sudoers_line(missing) if missing else "")
