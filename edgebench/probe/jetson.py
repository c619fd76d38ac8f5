"""What is the Jetson's own: L4T and JetPack, power modes, locked clocks, the GPU, its memory."""

import os
import re
from typing import Any, Callable, Dict, List, Optional, Tuple

from .tree import Tree, kilobytes
from .trtexec import PLACES
from .wire import Json

RunTool = Callable[..., str]
L4T = re.compile(r"^# R(\d+) \(release\), REVISION: ([\d.]+)")
JETPACK = {  # L4T -> JetPack; 32.7.N is 4.6.N
    "21.2.0": "1.0 DP",
    "21.3.0": "1.1 DP",
    "21.4.0": "2.2",
    "21.5.0": "2.3.1",
    "23.1.0": "2.0",
    "23.2.0": "2.1",
    "24.1.0": "2.2.1",
    "24.2.0": "2.3",
    "24.2.1": "2.3.1",
    "27.1.0": "3.0",
    "28.1.0": "3.1",
    "28.2.0": "3.2",
    "28.2.1": "3.2.1",
    "28.4.0": "3.3.3",
    "31.0.1": "4.0",
    "31.0.2": "4.1",
    "31.1.0": "4.1.1",
    "32.1.0": "4.2",
    "32.2.0": "4.2.1",
    "32.2.1": "4.2.2",
    "32.2.3": "4.2.3",
    "32.3.1": "4.3",
    "32.4.2": "4.4 DP",
    "32.4.3": "4.4",
    "32.4.4": "4.4.1",
    "32.5.0": "4.5",
    "32.5.1": "4.5.1",
    "32.5.2": "4.5.1",
    "32.6.1": "4.6",
    "34.0.1": "5.0 PRE-DP",
    "34.1.0": "5.0 DP",
    "34.1.1": "5.0.1 DP",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "36.2.0": "6.0 DP",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.2": "6.1.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "38.1.0": "7.0 EA",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
COMPUTE_CAPABILITY = {
    "tegra210": "5.3",
    "tegra186": "6.2",
    "tegra194": "7.2",
    "tegra234": "8.7",
    "tegra264": "11.0",
}
CUDNN_HEADERS = ("usr/include/cudnn_version.h", "usr/include/*/cudnn_version*.h", "usr/include/cudnn.h")
POWER_MODEL = re.compile(r"<\s*POWER_MODEL\s+ID=(\d{1,6})\s+NAME=(\S+)\s*>")
CLEAR_DIFFERENCE = 0.9  # clocks snap to a table, so a mode's own figure is never met exactly
GPU_NAMES = ("gv11b", "gp10b", "ga10b", "gb10b", "gpu")
GPU_LOADS = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load", "sys/devices/platform/*/*.gpu/load")
POLICY = "sys/devices/system/cpu/cpufreq/policy*/"
EMC = "sys/kernel/debug/bpmp/debug/clk/emc/"  # root only
NVMAP_CLIENTS = "sys/kernel/debug/nvmap/iovmm/clients"
NVMAP_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
NVMAP_LINE = re.compile(r"^\S+\s+(\S+)\s+(\d{1,9})\s+.*?(\d{1,15})([KMG]?)\s*$")
OVER_CURRENT = "sys/devices/platform/soctherm-oc-event/hwmon/hwmon*/oc[0-9]_event_cnt"


# --- versions -------------------------------------------------------------------------------------


def l4t(tree: Tree) -> Optional[str]:
    """ "36.4.3" of the first line of /etc/nv_tegra_release."""
    found = L4T.match(tree.text("etc/nv_tegra_release") or "")
    return "%s.%s" % found.groups() if found else None


def jetpack_version(release: str) -> Optional[str]:
    """JetPack of an L4T release: 32.7.N is 4.6.N, the others by table; None for an unknown one."""
    parts = release.split(".")
    if parts[:2] == ["32", "7"] and len(parts) == 3:
        return "4.6." + parts[2]
    return JETPACK.get(".".join((parts + ["0", "0"])[:3]))


def parse_cudnn(header: str) -> Optional[str]:
    """ "8.2.1" of the text of cudnn_version.h."""
    found = dict(re.findall(r"^#define CUDNN_(MAJOR|MINOR|PATCHLEVEL)\s+(\d{1,6})", header, re.MULTILINE))
    parts = [found.get(name) for name in ("MAJOR", "MINOR", "PATCHLEVEL")]
    return ".".join(part for part in parts if part) if all(parts) else None


def parse_cuda(text: str) -> Optional[str]:
    """ "10.2.300" of CUDA's version.txt, version.json or `nvcc --version`."""
    found = re.search(r"CUDA Version (\d[\d.]*)", text) or re.search(r"release [\d.]+, V(\d[\d.]*)", text)
    found = found or re.search(r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"(\d[\d.]*)"', text)
    return str(found.group(1)) if found else None


def header_versions(tree: Tree, run_tool: RunTool) -> Dict[str, str]:
    """cuDNN and CUDA as their own files name them, for installations without packages."""
    header = next((text for text in map(tree.first, CUDNN_HEADERS) if text and parse_cudnn(text)), "")
    text = tree.text("usr/local/cuda/version.txt") or tree.text("usr/local/cuda/version.json") or ""
    cuda = parse_cuda(text)
    if cuda is None and tree.live:
        cuda = parse_cuda(run_tool("/usr/local/cuda/bin/nvcc", "--version"))
    found = {"cudnn": parse_cudnn(header), "cuda": cuda}
    return {name: version for name, version in found.items() if version is not None}


def trtexec(tree: Tree) -> Optional[str]:
    """Where trtexec lies, or None."""
    found = next((name for place in PLACES for name in tree.names(place.lstrip("/"))), None)
    return None if found is None else "/" + found


# --- power modes ----------------------------------------------------------------------------------


def power_modes(conf: str) -> Dict[int, str]:
    """{id: name} of the text of nvpmodel.conf; ids are in no order of power."""
    return {int(number): name for number, name in POWER_MODEL.findall(conf)}


def power_mode(tree: Tree, run_tool: RunTool) -> Optional[str]:
    """The power mode that is set, by name; None where there is none."""
    saved = _saved_mode(tree)
    name = None if saved is None else power_modes(tree.text("etc/nvpmodel.conf") or "").get(saved)
    if name is not None:
        return name
    return parse_nvpmodel(run_tool("/usr/sbin/nvpmodel", "-q")) if tree.live else None


def parse_nvpmodel(text: str) -> Optional[str]:
    """The mode's name in the output of `nvpmodel -q`, which may begin with warnings."""
    found = re.search(r"NV Power Mode: (\S+)", text)
    return str(found.group(1)) if found else None


def _saved_mode(tree: Tree) -> Optional[int]:
    found = re.search(r"pmode:(\d{1,6})", tree.text("var/lib/nvpmodel/status") or "")
    return int(found.group(1)) if found else None


def mode_limits(conf: str, number: int) -> Json:
    """{"cores": [0, 1], "off": [2], "cpu_khz": [918000], "gpu_hz": 640000000} that a mode asks for."""
    block = _mode_block(conf, number)
    online = re.findall(r"^CPU_ONLINE CORE_(\d{1,3}) ([01])", block, re.MULTILINE)
    clocks = [int(each) for each in re.findall(r"^CPU_\w+ MAX_FREQ\s+(-?\d{1,10})", block, re.MULTILINE)]
    gpu = re.search(r"^GPU MAX_FREQ\s+(-?\d{1,12})", block, re.MULTILINE)
    return {
        "cores": [int(core) for core, on in online if on == "1"],
        "off": [int(core) for core, on in online if on == "0"],
        "cpu_khz": [clock for clock in clocks if clock > 0],
        "gpu_hz": int(gpu.group(1)) if gpu and int(gpu.group(1)) > 0 else None,
    }


def _mode_block(conf: str, number: int) -> str:
    for found in POWER_MODEL.finditer(conf):
        if int(found.group(1)) == number:
            return conf[found.end() :].split("\n<", 1)[0]
    return ""


def power_mode_pending(tree: Tree, online: List[int]) -> Optional[bool]:
    """True when cores and clocks are not those of the saved mode, which then waits for a reboot.

    None where the mode's definition says nothing that could be compared.
    """
    saved = _saved_mode(tree)
    limits = mode_limits(tree.text("etc/nvpmodel.conf") or "", -1 if saved is None else saved)
    seen: List[bool] = []
    if online:
        seen += [core in online for core in limits["off"]] + [core not in online for core in limits["cores"]]
    gpu = gpu_folder(tree)
    gpu_max = None if gpu is None else tree.number(gpu + "/max_freq")
    seen += [_apart(limits["gpu_hz"], gpu_max)] if limits["gpu_hz"] and gpu_max else []
    allowed = [tree.number(name) for name in tree.names(POLICY + "scaling_max_freq")]
    known = [value for value in allowed if value is not None]
    seen += [_apart(max(limits["cpu_khz"]), max(known))] if limits["cpu_khz"] and known else []
    return any(seen) if seen else None


def _apart(wanted: int, found: int) -> bool:
    return min(wanted, found) < CLEAR_DIFFERENCE * max(wanted, found)


# --- GPU ------------------------------------------------------------------------------------------


def gpu_folder(tree: Tree) -> Optional[str]:
    """The devfreq folder of the integrated GPU, or None."""
    for name in tree.names("sys/class/devfreq/*/cur_freq"):
        folder = os.path.dirname(name)
        node = tree.text(folder + "/device/of_node/name") or _from_name(os.path.basename(folder))
        if node in GPU_NAMES:
            return folder
    return None


def _from_name(entry: str) -> str:
    """ "ga10b" of "17000000.ga10b", "gpu" of "gpu-gpc-0"."""
    return entry.split(".")[-1].split("-")[0]


def gpu_load_file(tree: Tree, folder: Optional[str]) -> Optional[str]:
    """The file that holds the GPU's load in permille."""
    patterns = GPU_LOADS if folder is None else (folder + "/device/load",) + GPU_LOADS
    return next((name for pattern in patterns for name in tree.names(pattern)), None)


def gpu(tree: Tree) -> Json:
    """The fields of Conditions about the GPU: its clock, the clock allowed, its load as a share."""
    folder = gpu_folder(tree)
    clock = None if folder is None else tree.number(folder + "/cur_freq")
    allowed = None if folder is None else tree.number(folder + "/max_freq")
    load_file = gpu_load_file(tree, folder)
    return {
        "gpu_clock_khz": None if clock is None else clock // 1000,
        "gpu_clock_max_khz": None if allowed is None else allowed // 1000,
        "gpu_load": gpu_load(None if load_file is None else tree.number(load_file)),
    }


def gpu_load(permille: Optional[int]) -> Optional[float]:
    """The share of time that the GPU was busy."""
    return permille / 1000.0 if permille is not None and 0 <= permille <= 1000 else None


# --- locked clocks --------------------------------------------------------------------------------


def clocks_locked(tree: Tree) -> Optional[bool]:
    """Whether lowest and highest clock are equal on every online core, the GPU, and EMC where it can be read.

    That is what `jetson_clocks` does. None on boards without such a GPU and where a core tells nothing.
    """
    folder = gpu_folder(tree)
    if folder is None:
        return None
    pairs = [
        (_beside(tree, name, "min"), tree.number(name)) for name in tree.names(POLICY + "scaling_max_freq")
    ]
    pairs.append((tree.number(folder + "/min_freq"), tree.number(folder + "/max_freq")))
    memory = (tree.number(EMC + "rate"), tree.number(EMC + "max_rate"))
    if None not in memory:
        pairs.append(memory)
    return _all_equal(pairs) if len(pairs) > 1 else None


def _beside(tree: Tree, name: str, which: str) -> Optional[int]:
    return tree.number(name.replace("scaling_max_freq", "scaling_%s_freq" % which))


def _all_equal(pairs: List[Tuple[Optional[int], Optional[int]]]) -> Optional[bool]:
    if any(low is not None and high is not None and low != high for low, high in pairs):
        return False
    return None if any(None in pair for pair in pairs) else True


def parse_show(text: str) -> Json:
    """{"locked", "cores": {0: {...}}, "gpu": {...}, "emc": {...}, "mode"} of `jetson_clocks --show`."""
    cores = {
        int(number): dict(_pairs(rest), governor=_governor(rest))
        for number, rest in re.findall(r"^cpu(\d{1,3}): (.*)$", text, re.MULTILINE)
    }
    gpu_line = re.search(r"^GPU (MinFreq=.*)$", text, re.MULTILINE)
    emc_line = re.search(r"^EMC (MinFreq=.*)$", text, re.MULTILINE)
    found = {
        "cores": cores,
        "gpu": _pairs(gpu_line.group(1)) if gpu_line else {},
        "emc": _pairs(emc_line.group(1)) if emc_line else {},
        "mode": parse_nvpmodel(text),
    }
    return dict(found, locked=_shown_locked(found))


def _pairs(text: str) -> Dict[str, Any]:
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d{1,12})\b", text)}


def _governor(text: str) -> Optional[str]:
    found = re.search(r"Governor=(\S+)", text)
    return str(found.group(1)) if found else None


def _shown_locked(found: Json) -> Optional[bool]:
    online = [core for core in found["cores"].values() if core.get("Online") != 0]
    pairs = [(core.get("MinFreq"), core.get("MaxFreq")) for core in online]
    pairs.append((found["gpu"].get("MinFreq"), found["gpu"].get("MaxFreq")))
    if found["emc"]:
        pairs.append((found["emc"].get("CurrentFreq"), found["emc"].get("MaxFreq")))
    return _all_equal(pairs) if online else None


# --- memory and over-current ----------------------------------------------------------------------


def gpu_memory_used(tree: Tree) -> Optional[int]:
    """Bytes that the GPU's allocator has given out on the whole system; None on Thor and elsewhere."""
    used = kilobytes(tree.table("proc/meminfo"), "NvMapMemUsed")
    return parse_nvmap(tree.text(NVMAP_CLIENTS) or "").get("total") if used is None else used


def parse_nvmap(text: str) -> Dict[str, int]:
    """{"total": bytes, "<pid>": bytes} of nvmap's list of clients (root); the size is the last column."""
    found: Dict[str, int] = {}
    for line in text.splitlines():
        entry = NVMAP_LINE.match(line)
        total = re.match(r"^total\s+.*?(\d{1,15})([KMG]?)\s*$", line)
        if total:
            found["total"] = int(total.group(1)) * NVMAP_UNITS[total.group(2)]
        elif entry:
            size = int(entry.group(3)) * NVMAP_UNITS[entry.group(4)]
            found[entry.group(2)] = found.get(entry.group(2), 0) + size
    return found


def over_current(tree: Tree) -> Json:
    """Orin's over-current events since boot, and those of them that lower the clocks when they happen."""
    counts: Dict[str, int] = {}
    lowering: List[str] = []
    for path in tree.names(OVER_CURRENT):
        name, count = os.path.basename(path).split("_")[0], tree.number(path)
        if count is None:
            continue
        counts[name] = count
        if tree.number(path.replace("_event_cnt", "_throt_en")):
            lowering.append(name)
    return {"over_current": counts, "over_current_throttles": lowering}
