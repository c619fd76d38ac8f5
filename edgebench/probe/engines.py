"""Built engines and timing caches below the work folder: kept whole or not at all, found by what they fit.

engines/<key>/      engine.plan and note.json     one engine: model, TensorRT, GPU, flags, release, power mode
engines/<key>/      timing.cache and note.json    one timing cache: the same without model and flags

The note holds size and sha256 of the file beside it, and what trtexec said when it was made.
"""

import hashlib
import json
import os
import re
from typing import Any, Callable, ContextManager, Dict, NamedTuple, Optional, Set

from . import check
from .store import remove, sha256_synced, sync_folder
from .wire import Json

ENGINE, TIMING, NOTE = "engine.plan", "timing.cache", "note.json"
MAX_NOTE_BYTES = 1 << 20
UNKNOWN = "unknown"
NOT_OF_TIMING = ("model", "flags")

Kept = NamedTuple("Kept", [("path", str), ("note", Json)])


def complete_key(cache_key: Any, facts: Json) -> Dict[str, str]:
    """The plan's cache key with what only the device knows: GPU, release of its software, power mode."""
    if not isinstance(cache_key, dict) or not all(isinstance(each, str) for each in cache_key.values()):
        raise check.bad('"cache_key" of plan.json must hold texts')
    versions = facts.get("versions") or {}
    there = {
        "gpu": facts.get("accelerator"),
        "l4t": versions.get("l4t"),
        "jetpack": versions.get("jetpack"),
        "power_mode": facts.get("power_mode"),
    }
    return {
        name: re.sub(r"^\{([a-z0-9_]+)\}$", lambda found: str(there.get(found.group(1)) or UNKNOWN), value)
        for name, value in cache_key.items()
    }


def timing_key(key: Dict[str, str]) -> Dict[str, str]:
    """What a timing cache depends on."""
    return {name: value for name, value in key.items() if name not in NOT_OF_TIMING}


class Engines:
    """The engines of one work folder.

    `whole` keeps scratch folders from being removed (in another thread) while one gets its final name.
    """

    def __init__(self, work: str, whole: Callable[[], ContextManager[None]]) -> None:
        self._folder = os.path.join(os.path.realpath(work), "engines")
        self._whole = whole

    def engine(self, key: Dict[str, str]) -> Optional[Kept]:
        """The kept engine for a key, or None; one that was changed or is incomplete is removed."""
        return self._find(key, ENGINE)

    def timing(self, key: Dict[str, str]) -> Optional[Kept]:
        """The kept timing cache for a key, or None, alike."""
        return self._find(timing_key(key), TIMING)

    def keep_engine(self, key: Dict[str, str], scratch: str, note: Json) -> Kept:
        """Keep `engine.plan` of a scratch folder."""
        return self._keep(key, scratch, ENGINE, note)

    def keep_timing(self, key: Dict[str, str], scratch: str) -> None:
        """Keep `timing.cache` of a scratch folder, in the place of an older one."""
        self._keep(timing_key(key), scratch, TIMING, {})

    def forget(self, path: str) -> None:
        """Remove the engine at `path`, which does not load any more."""
        folder = os.path.dirname(path)
        if os.path.dirname(folder) == self._folder and os.path.isdir(folder):
            remove(folder)

    def clean(self, keep: Set[str]) -> int:
        """Remove what is not named in `keep` (folder names); the bytes that this freed."""
        names = os.listdir(self._folder) if os.path.isdir(self._folder) else []
        return sum(remove(os.path.join(self._folder, name)) for name in names if name not in keep)

    def _find(self, key: Dict[str, str], name: str) -> Optional[Kept]:
        folder = self._place(key)
        path = os.path.join(folder, name)
        note = _read_note(folder)
        try:
            whole = note is not None and sha256_synced(path) == (note.get("sha256"), note.get("size_bytes"))
        except OSError:
            whole = False
        if not whole or note is None:
            if os.path.lexists(folder):
                remove(folder)
            return None
        return Kept(path, note)

    def _keep(self, key: Dict[str, str], scratch: str, name: str, note: Json) -> Kept:
        digest, size = sha256_synced(os.path.join(scratch, name))
        note = dict(note, key=key, sha256=digest, size_bytes=size)
        with open(os.path.join(scratch, NOTE), "w") as file:
            json.dump(note, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        final = self._place(key)
        with self._whole():
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            sync_folder(scratch)
            if os.path.lexists(final):
                remove(final)
            os.rename(scratch, final)
        sync_folder(self._folder)
        return Kept(os.path.join(final, name), note)

    def _place(self, key: Dict[str, str]) -> str:
        named = json.dumps(key, sort_keys=True).encode("ascii")
        return os.path.join(self._folder, hashlib.sha256(named).hexdigest())


def _read_note(folder: str) -> Optional[Json]:
    try:
        with open(os.path.join(folder, NOTE), "rb") as file:
            note = json.loads(file.read(MAX_NOTE_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) else None
