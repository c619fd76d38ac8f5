"""What the Raspberry Pi's firmware says: its throttle word, and the texts of vcgencmd."""

import re
from typing import Callable, List, Optional, Tuple

from .tree import Tree

RunTool = Callable[..., str]
VCGENCMD = ("/usr/bin/vcgencmd", "/opt/vc/bin/vcgencmd")
FIRMWARE = "sys/devices/platform/soc*/*firmware/get_throttled"
THROTTLED = re.compile(r"throttled=(?:0x)?([0-9a-fA-F]+)")
BARE_WORD = re.compile(r"(?:0x)?([0-9a-fA-F]{1,8})\s*\Z")
BITS = (
    (0x1, "under-voltage"),
    (0x2, "frequency capped"),
    (0x4, "throttled"),
    (0x8, "soft temperature limit"),
)
LIVE_BITS, STICKY_SHIFT = 0xF, 16
HIGHEST_HZ = 10**11


def is_one(soc: Optional[str]) -> bool:
    """True for the chips of Raspberry Pis."""
    return (soc or "").startswith("bcm2")


def ask(run_tool: RunTool, *words: str) -> str:
    """What vcgencmd says, from wherever it is installed; "" when it says nothing."""
    return next((said for said in (run_tool(path, *words) for path in VCGENCMD) if said), "")


def throttle_word(tree: Tree, soc: Optional[str], run_tool: Optional[RunTool]) -> Optional[int]:
    """The firmware's throttle word: sysfs first (no fork, no group), else vcgencmd where that may be run."""
    text = tree.first(FIRMWARE)
    if text is None and run_tool is not None and tree.live and is_one(soc):
        text = ask(run_tool, "get_throttled")
    return parse_throttled(text or "")


def parse_throttled(text: str) -> Optional[int]:
    """The word of "throttled=0x50005" or of bare hex digits in sysfs; None for vcgencmd's failure texts."""
    found = THROTTLED.search(text) or BARE_WORD.match(text)
    return int(found.group(1), 16) if found else None


def words(value: int) -> Tuple[List[str], List[str]]:
    """(what holds now, what held since boot) of a throttle word, in words."""
    now = [name for bit, name in BITS if value & bit]
    return now, [name for bit, name in BITS if value >> STICKY_SHIFT & bit]


def parse_clock(text: str) -> Optional[int]:
    """The measured clock in kHz of "frequency(48)=2000478464"; None when it is absent or 0."""
    found = re.search(r"frequency\(\d+\)=(\d{1,12})\b", text)
    value = int(found.group(1)) if found else 0
    return value // 1000 if 0 < value <= HIGHEST_HZ else None


def parse_temperature(text: str) -> Optional[float]:
    """Degrees of "temp=43.8'C"."""
    found = re.search(r"temp=(-?\d{1,3}(?:\.\d+)?)'?C", text)
    return float(found.group(1)) if found else None
