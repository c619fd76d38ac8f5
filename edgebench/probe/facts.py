"""What the device is: the fields of the record Facts. Read from files below a root; None is unknown, never 0.

Sources, board by board: devices' own files first, tools only where no file says it. No serial number is read.
"""

import collections
import os
import re
import struct
from typing import Dict, List, Optional

from . import jetson, macos, rails
from .tree import Tree, kilobytes, run_tool
from .wire import Json

DPKG_BYTES = 64 << 20

Host = collections.namedtuple("Host", "system machine release hostname python bits libc")

CPU_PARTS = {  # ARM's own part numbers (implementer 0x41)
    0xB76: "ARM1176",
    0xC07: "Cortex-A7",
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD49: "Neoverse-N2",
}
X86_FEATURES = re.compile(r"(sse4_[12]|avx.*|amx_.*|fma|f16c|bmi2)\Z")
MAX_FEATURES = 64
QEMU_TREE = "linux,dummy-virt"  # the `compatible` entry of qemu's virt machine

PACKAGES = (  # the first that is installed gives the version
    ("tensorrt", re.compile(r"libnvinfer\d+\Z")),
    ("cudnn", re.compile(r"libcudnn\d+(-cuda-\d+)?\Z")),
    ("cuda", re.compile(r"cuda-cudart-\d+-\d+\Z")),
    ("l4t", re.compile(r"nvidia-l4t-core\Z")),
)


def this_host() -> Host:
    """What the running interpreter knows of the machine."""
    import platform  # slow to import, and a launch does not need it

    name = os.uname()
    bits = struct.calcsize("P") * 8
    return Host(
        name.sysname, name.machine, name.release, name.nodename, platform.python_version(), bits, _libc()
    )


def read(root: str = "/", host: Optional[Host] = None) -> Json:
    """The fields of Facts for the device whose files lie below `root`."""
    host = this_host() if host is None else host
    tree = Tree(root)
    facts = {
        "arch": userland_arch(host.machine, host.bits),
        "bits": host.bits,
        "os": {"Linux": "linux", "Darwin": "macos"}.get(host.system, host.system.lower()),
        "kernel": host.release,
        "python": host.python,
        "hostname": host.hostname or None,
        "libc": host.libc,
    }
    facts.update(macos.facts() if host.system == "Darwin" and tree.live else _linux(tree, host))
    return facts


def userland_arch(machine: str, bits: int) -> str:
    """The processor as programs see it: a 32-bit userland on a 64-bit kernel is armv7l or i686."""
    if bits == 32:
        return {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}.get(machine, machine)
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(machine, machine)


def _linux(tree: Tree, host: Host) -> Json:
    processors = cpuinfo(tree)
    memory = tree.table("proc/meminfo")
    soc = soc_name(tree)
    plain = {
        "board": board(tree),
        "soc": soc,
        "cpu": cpu_name(processors),
        "cores": cores(tree, processors),
        "cpu_features": cpu_features(processors),
        "os_release": os_release(tree),
        "kernel_arch": kernel_arch(tree, host.machine),
        "power_mode": jetson.power_mode(tree, run_tool),
        "power_modes": list(jetson.power_modes(tree.text("etc/nvpmodel.conf") or "").values()),
        "power_mode_pending": jetson.power_mode_pending(tree, online(tree)),
        "trtexec": jetson.trtexec(tree),
        "swap_kind": swap_kind(tree),
        "memory_cgroup": memory_cgroup(tree),
        "memory_bytes": kilobytes(memory, "MemTotal"),
        "swap_bytes": kilobytes(memory, "SwapTotal"),
        "accelerator": accelerator(tree, soc),
        "versions": versions(tree),
        "emulated": emulated(tree, host.machine, processors),
    }
    plain.update(rails.names(tree, soc, run_tool))
    return plain


def cpuinfo(tree: Tree) -> List[Dict[str, str]]:
    """/proc/cpuinfo: one {key: value} a processor, then what stands after them (Hardware, Model)."""
    blocks = []
    for block in (tree.text("proc/cpuinfo") or "").split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        fields = {key.strip(): value.strip() for key, colon, value in pairs if colon}
        if fields:
            blocks.append(fields)
    return blocks


def board(tree: Tree) -> Optional[str]:
    """The board's own name: device tree, then DMI, then the Model line of a Raspberry Pi."""
    model = tree.text("proc/device-tree/model") or tree.text("sys/firmware/devicetree/base/model")
    if model:
        return model
    parts = [tree.text("sys/class/dmi/id/" + name) for name in ("sys_vendor", "product_name")]
    if any(parts):
        return " ".join(part for part in parts if part)
    return tree.table("proc/cpuinfo").get("Model")


def soc_name(tree: Tree) -> Optional[str]:
    """The chip, from the last `compatible` entry of the device tree: tegra234, bcm2712."""
    names = [name for name in _compatible(tree) if name != QEMU_TREE] or _compatible(tree)
    return (names[-1].split(",")[-1] or None) if names else None


def _compatible(tree: Tree) -> List[str]:
    text = tree.text("proc/device-tree/compatible") or tree.text("sys/firmware/devicetree/base/compatible")
    return text.split("\0") if text else []


def cpu_name(processors: List[Dict[str, str]]) -> Optional[str]:
    """ "Intel(R) Xeon(R) ..." or "Cortex-A76"; several kinds are joined by " + "."""
    names = []
    for fields in processors:
        name = fields.get("model name") or _arm_part(fields)
        if name and name not in names:
            names.append(name)
    return " + ".join(names) or None


def _arm_part(fields: Dict[str, str]) -> Optional[str]:
    part = fields.get("CPU part")
    if not part:
        return None
    try:
        number = int(part, 16)
    except ValueError:
        return None
    if fields.get("CPU implementer", "0x41") != "0x41":
        return "ARM implementer %s part %s" % (fields["CPU implementer"], part)
    return CPU_PARTS.get(number, "ARM part %s" % part)


def cores(tree: Tree, processors: List[Dict[str, str]]) -> Optional[int]:
    """Processors that are switched on."""
    return len(online(tree)) or sum(1 for fields in processors if "processor" in fields) or None


def online(tree: Tree) -> List[int]:
    """The numbers of the processors that are switched on; [] where unknown."""
    return ranges(tree.text("sys/devices/system/cpu/online") or "")


def ranges(text: str) -> List[int]:
    """[0, 1, 2, 5] of "0-2,5"; [] where it cannot be read."""
    numbers: List[int] = []
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if not low.isdecimal() or not (high or low).isdecimal() or int(high or low) > 4096:
            return []
        numbers.extend(range(int(low), int(high or low) + 1))
    return numbers


def cpu_features(processors: List[Dict[str, str]]) -> List[str]:
    """Instruction sets that matter for inference; on ARM all that the kernel lists."""
    for fields in processors:
        if fields.get("Features"):
            return fields["Features"].split()[:MAX_FEATURES]
        if fields.get("flags"):
            return [flag for flag in fields["flags"].split() if X86_FEATURES.match(flag)][:MAX_FEATURES]
    return []


def kernel_arch(tree: Tree, machine: str) -> Optional[str]:
    """The processor as the kernel sees it: "aarch64" below a 32-bit userland (armv7l) too."""
    return tree.text("proc/sys/kernel/arch", 64) or userland_arch(machine, 64) or None


def swap_kind(tree: Tree) -> Optional[str]:
    """ "zram", "file", "partition", several joined by "+", or "none"; None where it is not told."""
    text = tree.text("proc/swaps")
    if text is None:
        return None
    kinds = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 2:
            kinds.add("zram" if "/zram" in fields[0] else fields[1][:32])
    return "+".join(sorted(kinds)) or "none"


def memory_cgroup(tree: Tree) -> Optional[bool]:
    """Whether control groups can limit memory: switched off by default on a Raspberry Pi."""
    controllers = tree.text("sys/fs/cgroup/cgroup.controllers")
    if controllers is not None:
        return "memory" in controllers.split()
    for line in (tree.text("proc/cgroups") or "").splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[0] == "memory":
            return fields[3] == "1"
    return None


def os_release(tree: Tree) -> Optional[str]:
    """PRETTY_NAME of /etc/os-release."""
    for line in (tree.text("etc/os-release") or tree.text("usr/lib/os-release") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip("\"'") or None
    return None


def accelerator(tree: Tree, soc: Optional[str]) -> Optional[str]:
    """The GPU that a runtime could use, or None."""
    if soc in jetson.COMPUTE_CAPABILITY:
        return "NVIDIA %s GPU, compute capability %s" % (soc, jetson.COMPUTE_CAPABILITY[soc])
    for name in tree.names("proc/driver/nvidia/gpus/*/information"):
        model = tree.table(name).get("Model")
        if model:
            return model
    return None


def versions(tree: Tree) -> Dict[str, str]:
    """{"l4t": "32.7.1", "jetpack": "4.6.1", "tensorrt": "8.2.1", ...}: without the build suffix."""
    found = installed(tree.text("var/lib/dpkg/status", DPKG_BYTES) or "")
    release = jetson.l4t(tree) or found.get("l4t")
    if release:
        found["l4t"] = release
        jetpack = jetson.jetpack_version(release)
        if jetpack:
            found["jetpack"] = jetpack
        for name, version in jetson.header_versions(tree, run_tool).items():
            found.setdefault(name, version)
    issue = re.search(r"reference (\d{4}-\d\d-\d\d)", tree.text("etc/rpi-issue") or "")
    if issue:
        found["rpi_image"] = issue.group(1)
    return found


def installed(status: str) -> Dict[str, str]:
    """Versions of the PACKAGES in the text of /var/lib/dpkg/status."""
    found: Dict[str, str] = {}
    for block in status.split("\n\n"):
        name = re.match(r"Package: (\S+)", block.lstrip())
        version = re.search(r"^Version: (\S+)", block, re.MULTILINE)
        if name and version and "\nStatus: install ok installed" in block:
            kind = next((kind for kind, pattern in PACKAGES if pattern.match(name.group(1))), None)
            if kind:
                found.setdefault(kind, version.group(1).split("-")[0].split("+")[0])
    return found


def emulated(tree: Tree, machine: str, processors: List[Dict[str, str]]) -> Optional[bool]:
    """True under qemu, False where the kernel's own processor is the program's, None where neither shows.

    qemu-user answers uname itself; the kernel's `arch` (6.1 and newer) and, with older qemu, /proc/cpuinfo
    stay those of the real machine. A whole emulated machine shows in its processor's model or device tree.
    """
    kernel = tree.text("proc/sys/kernel/arch", 64) or _shown_arch(processors)
    if kernel is None:
        return None
    if _family(kernel) != _family(machine):
        return True
    return _whole_machine_emulated(tree, processors)


def _shown_arch(processors: List[Dict[str, str]]) -> Optional[str]:
    first = processors[0] if processors else {}
    return "x86_64" if "vendor_id" in first else "arm" if "CPU implementer" in first else None


def _whole_machine_emulated(tree: Tree, processors: List[Dict[str, str]]) -> Optional[bool]:
    compatible = _compatible(tree)
    if (
        QEMU_TREE in compatible
    ):  # with another board's name beside it the tree was patched to look like that board
        return True if len(compatible) > 1 else None
    if processors and processors[0].get("model name", "").startswith("QEMU TCG"):
        return True
    if (
        tree.text("sys/class/dmi/id/sys_vendor") == "QEMU"
    ):  # KVM runs at the processor's own speed, TCG does not
        clocks = tree.text("sys/devices/system/clocksource/clocksource0/available_clocksource") or ""
        return False if "kvm-clock" in clocks else None
    known = compatible or tree.text("sys/class/dmi/id/product_name") or tree.text("proc/sys/kernel/arch")
    return False if known else None


def _family(machine: str) -> str:
    if machine.startswith(("arm", "aarch64")):
        return "arm"
    return "x86" if machine in ("x86_64", "amd64", "i386", "i486", "i586", "i686") else machine


def _libc() -> Optional[str]:
    try:
        known = os.confstr(
            "CS_GNU_LIBC_VERSION"
        )  # "glibc 2.36"; platform.libc_ver() reads it off the file, wrongly
    except (ValueError, OSError):
        known = None
    if known:
        return known
    return "musl" if Tree().names("lib/ld-musl-*") else None
