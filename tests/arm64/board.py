"""An aarch64 Debian userland behind a real SSH server, in a network namespace like the tests' other devices.

Its programs are emulated by qemu-user: what is installed, imported and computed there is Arm's, latency and
memory are nobody's. It says that it is a Raspberry Pi 4 (the model string of its device tree is laid over).

    python -m tests.arm64.board --inventory inventory.yaml     until stdin ends
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.arm64.root import ready_to_emulate, root_tar
from tests.fleet.netns import (
    HOME,
    INSIDE,
    USER,
    USER_ID,
    Fleet,
    FleetDevice,
    MissingTool,
    Spec,
    available_kind,
)

MODEL = "Raspberry Pi 4 Model B Rev 1.4"
# With qemu's default processor onnxruntime dies of a segmentation fault and ncnn computes in fp16.
PROCESSOR = "cortex-a72"
UNPACK_S = 120.0


class Arm64Device(FleetDevice):
    """One emulated board. Its root is unpacked anew for every fleet; its home is a tmpfs."""

    def __init__(self, number: int, folder: Path, key_file: Path, tar: Path) -> None:
        spec = Spec(options=(f"SetEnv QEMU_CPU={PROCESSOR}",))
        super().__init__(number, folder, key_file, spec, "netns")
        self._tar = tar

    def start(self, authorized: str) -> None:
        """Unpack the userland, then as every device."""
        root = self.folder.with_name(f"{self.folder.name}-root")
        root.mkdir()
        self.folder.with_name(f"{self.folder.name}-cpuinfo").write_text(cpuinfo())
        _sh("tar", "--extract", "--numeric-owner", "--file", str(self._tar), "--directory", str(root))
        super().start(authorized)

    def _start_script(self) -> str:
        return START


def cpuinfo() -> str:
    """/proc/cpuinfo as a Cortex-A72 has it: beside this computer's own one, onnxruntime's reader crashes."""
    return "".join(CPUINFO.format(number=number) for number in range(os.cpu_count() or 1))


CPUINFO = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""

START = f"""set -e
folder=$1 name=$2 home_size=$3
root="$folder-root"
hostname "$name"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind "$folder-cpuinfo" "$root/proc/cpuinfo"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/sys/firmware"
mkdir -p "$root/sys/firmware/devicetree/base"
printf '%s\\0' "{MODEL}" >"$root/sys/firmware/devicetree/base/model"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
  touch "$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir -m 1777 "$root/dev/shm"
mkdir "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/run/sshd" "$root{INSIDE}"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/home"
mkdir "$root{HOME}"
mount -t tmpfs -o "size=$home_size,uid={USER_ID},gid={USER_ID},mode=755" tmpfs "$root{HOME}"
echo "{USER}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/bash" >>"$root/etc/passwd"
echo "{USER}:x:{USER_ID}:" >>"$root/etc/group"
echo "{USER}:*:19000:0:99999:7:::" >>"$root/etc/shadow"
cp "$folder"/host_* "$folder/authorized_keys" "$folder/sshd_config" "$root{INSIDE}"
chmod 600 "$root{INSIDE}"/host_*
cd "$root"
exec env QEMU_CPU={PROCESSOR} chroot "$root" /usr/sbin/sshd -D -e -f {INSIDE}/sshd_config
"""


class Arm64Fleet(Fleet):
    """One emulated board, started and removed like any fleet."""

    def __init__(self, tar: Path) -> None:
        super().__init__([Spec()], kind="netns")
        self._tar = tar

    def _device(self, number: int, folder: Path, spec: Spec) -> FleetDevice:
        return Arm64Device(number, folder, self.key_file, self._tar)


@contextmanager
def running_board() -> Iterator[FleetDevice]:
    """The emulated board; MissingTool where this computer cannot run it."""
    ready_to_emulate()
    if available_kind() != "netns":
        raise MissingTool("network namespaces (root, iproute2)")
    with Arm64Fleet(root_tar()) as fleet:
        yield fleet.devices[0]


def _sh(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=UNPACK_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")


def entry(device: FleetDevice) -> str:
    """An inventory with this board alone."""
    lines = [
        "version: 1",
        "devices:",
        "  pi:",
        "    target: raspberry-pi-4",
        f"    address: {device.address}",
        f'    host_key: "{device.fingerprints[0]}"',
        f"    ssh: {{user: {device.user}, port: {device.port}, key_file: {device.key_file}}}",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the board until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.arm64.board", description=main.__doc__)
    parser.add_argument("--inventory", type=Path, required=True, help="the inventory.yaml to write")
    options = parser.parse_args(arguments)
    try:
        with running_board() as device:
            options.inventory.write_text(entry(device))
            print(f"an emulated {MODEL} is up at {device.address}; end stdin to stop it", flush=True)
            sys.stdin.read()
    except MissingTool as missing:
        print(f"missing tool: {missing}", file=sys.stderr)
        return 2
    finally:
        options.inventory.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
