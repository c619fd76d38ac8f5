"""The probe's archive is reproducible; wheel tags fit the device's Python, processor and C library."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgebench.device.bundle import WHEELS, platform_tags, probe_archive, resolve
from edgebench.errors import DeviceError
from edgebench.records import Facts


def facts(**changes: object) -> Facts:
    base: dict[str, object] = {
        "arch": "aarch64",
        "bits": 64,
        "os": "linux",
        "kernel": "6.1",
        "python": "3.11.2",
    }
    return Facts(**{**base, "libc": "glibc 2.36", **changes})  # type: ignore[arg-type]


def test_the_archive_has_the_same_digest_every_time(tmp_path: Path) -> None:
    first, digest = probe_archive(tmp_path / "a")
    second, again = probe_archive(tmp_path / "b")
    assert digest == again
    assert first.read_bytes() == second.read_bytes()
    assert digest in first.name


def test_the_archive_holds_the_probe_as_a_package_of_its_own_name(tmp_path: Path) -> None:
    archive, _ = probe_archive(tmp_path)
    names = zipfile.ZipFile(archive).namelist()
    assert names[0] == "__main__.py"
    assert all(name.startswith("edgebench_probe/") for name in names[1:])
    done = subprocess.run([sys.executable, archive, "no-such-program"], capture_output=True, check=False)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


def test_newest_manylinux_first_down_to_the_oldest() -> None:
    tags = platform_tags(facts())
    assert tags[0] == "manylinux_2_36_aarch64"
    assert "manylinux2014_aarch64" in tags
    assert tags[-1] == "manylinux1_aarch64"


def test_a_32_bit_userland_on_a_64_bit_kernel_takes_32_bit_wheels() -> None:
    assert platform_tags(facts(bits=32))[0] == "manylinux_2_36_armv7l"


def test_an_old_board_gets_no_newer_wheels_than_its_libc() -> None:
    assert platform_tags(facts(libc="glibc 2.27", python="3.6.9"))[0] == "manylinux_2_27_aarch64"


@pytest.mark.parametrize("libc", [None, "musl 1.2", "glibc", "glibc x.y", "glibc 2.x"])
def test_no_glibc_no_wheels(libc: str | None) -> None:
    with pytest.raises(DeviceError, match="no runtime wheel fits"):
        platform_tags(facts(libc=libc))


@pytest.mark.parametrize(
    ("release", "newest"),
    [("macOS 14.5", 14), ("macOS 26.1", 26), (None, 15), ("macOS", 15), ("Darwin 9", 15)],
)
def test_a_mac_gets_no_newer_wheels_than_its_system(release: str | None, newest: int) -> None:
    tags = platform_tags(facts(os="macos", os_release=release, libc=None))
    assert tags[0] == f"macosx_{newest}_0_arm64"
    assert tags[-1] == "macosx_11_0_arm64"


def test_core_ml_is_refused_where_there_is_no_macos(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="coreml is a part of macOS, and this device runs linux"):
        resolve("coreml", facts(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_wheels_for_core_ml_are_all_that_coremltools_imports() -> None:
    """What `import coremltools` loads on this computer, what it can do without held back."""
    pytest.importorskip("coremltools", reason="missing tool: coremltools")
    code = (
        "import sys\n"
        "held = {'torch', 'torchvision', 'tensorflow', 'sklearn', 'scipy', 'pandas', 'xgboost', 'PIL'}\n"
        "class Held:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in held:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Held())\n"
        "import coremltools\n"
        "from importlib.metadata import packages_distributions\n"
        "known = packages_distributions()\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print('\\n'.join(sorted({d for name in loaded for d in known.get(name, ())})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.lower().replace("_", "-") for name in done.stdout.split()}
    shipped = {name.lower().replace("_", "-") for name in WHEELS["coreml"]}
    assert imported - shipped <= {"setuptools", "edgebench"}, imported - shipped
