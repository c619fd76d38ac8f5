"""What must go when the work folder is to take more: what was used least recently, and no more than that.

A unit is what is removed as a whole: an artifact, a bundle, an engine, a file of the store, an upload, an old
probe. Files with several names (hard links) take their room once, and free it with their last name. A file of
the store that no artifact has (a wheel that is unpacked) is used by nobody, and thus among the first to go.
"""

import os
import stat
from typing import Collection, Dict, List, NamedTuple, Optional, Tuple

FOLDERS = ("artifacts", "bundles", "engines")  # what is named by its digest and used from there
KINDS = FOLDERS + ("store", "incoming", "probe")

Inode = Tuple[int, int]
Unit = NamedTuple("Unit", [("key", str), ("used", int), ("files", Dict[Inode, int])])


def used_bytes(units: Collection[Unit]) -> int:
    """The room that all units take together."""
    return sum(_sizes(units).values())


def choose(units: Collection[Unit], spared: Collection[str], wanted_bytes: int) -> Optional[List[Unit]]:
    """The units to remove so that `wanted_bytes` come free, or None where even all of them free less.

    The least recently used go first; none goes that need not, and none of those spared.
    """
    sizes, names = _sizes(units), _names(units)
    freed, chosen = 0, []
    for unit in sorted((each for each in units if each.key not in spared), key=_oldest_first):
        if freed >= wanted_bytes:
            break
        chosen.append(unit)
        for inode in unit.files:
            names[inode] -= 1
            freed += 0 if names[inode] else sizes[inode]
    if freed < wanted_bytes:
        return None
    return _needed(chosen, sizes, names, freed - wanted_bytes)


def _oldest_first(unit: Unit) -> Tuple[int, str]:
    return unit.used, unit.key


def _needed(chosen: List[Unit], sizes: Dict[Inode, int], names: Dict[Inode, int], spare: int) -> List[Unit]:
    """`chosen` without what brings nothing, or no more than is to spare; what was used last stays first."""
    kept = []
    for unit in reversed(chosen):
        brings = sum(sizes[inode] for inode in unit.files if names[inode] == 0)
        if brings > spare:
            kept.append(unit)
            continue
        spare -= brings
        for inode in unit.files:
            names[inode] += 1
    return kept[::-1]


def _sizes(units: Collection[Unit]) -> Dict[Inode, int]:
    return {inode: size for unit in units for inode, size in unit.files.items()}


def _names(units: Collection[Unit]) -> Dict[Inode, int]:
    counts = {}  # type: Dict[Inode, int]
    for unit in units:
        for inode in unit.files:
            counts[inode] = counts.get(inode, 0) + 1
    return counts


def read(work: str, used: Dict[str, int]) -> List[Unit]:
    """Every unit below the work folder; `used` says when, by the work folder's own count."""
    units = []
    for kind in KINDS:
        folder = os.path.join(work, kind)
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            key = "%s/%s" % (kind, name)
            units.append(Unit(key, used.get(key, 0), _files(os.path.join(folder, name))))
    return units


def _files(path: str) -> Dict[Inode, int]:
    if os.path.islink(path) or not os.path.isdir(path):
        paths = [path]
    else:
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    found = {}
    for each in paths:
        try:
            status = os.lstat(each)
        except OSError:  # it went meanwhile
            continue
        if stat.S_ISREG(status.st_mode):
            found[(status.st_dev, status.st_ino)] = status.st_blocks * 512
    return found
