"""The aarch64 Debian userland as a tar file, built once from this computer's own package sources and kept.

    python -m tests.arm64.root

prints where the tar lies: `~/.cache/edgebench/arm64/<key>/root.tar`, where the key is a hash of the recipe
below. Building takes minutes (every package is configured by emulated programs), every later call no time.

What it needs: root, binfmt_misc, and the Debian packages of PACKAGES. Mirrors are read from apt; nothing here
names one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.fleet.netns import MissingTool

SUITE = "bookworm"
ARCH = "arm64"
BUILD_S = 1800.0
STEP_S = 120.0
BINFMT = Path("/proc/sys/fs/binfmt_misc")
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "update-binfmts": "binfmt-support",
}

# Essential packages and these: no package manager, no documentation. The wheels bring their own libraries but
# for the C++ one, as on any Raspberry Pi.
INCLUDE = ("python3", "openssh-server", "openssh-sftp-server", "libstdc++6", "procps")
LEFT_OUT = ("doc", "man", "locale", "info", "lintian")
# /usr is merged from the start, so that nobody needs usrmerge, which brings all of Perl
MERGED_USR = Path("/usr/share/mmdebstrap/hooks/merged-usr")
NO_USRMERGE = "Package: usrmerge\\nPin: release *\\nPin-Priority: -1\\n"
RECIPE = (
    "--mode=root",
    "--variant=essential",
    f"--arch={ARCH}",
    f"--include={','.join(INCLUDE)}",
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
    '--aptopt=Acquire::Languages "none"',
    f"--hook-dir={MERGED_USR}",
    f"--setup-hook=printf '{NO_USRMERGE}' >\"$1\"/etc/apt/preferences.d/no-usrmerge",
    '--customize-hook=rm -rf "$1"/var/cache/* "$1"/var/lib/apt/lists/* "$1"/etc/ssh/ssh_host_*',
)


class CannotEmulate(MissingTool):
    """This computer cannot run aarch64 programs; the text says why and what to do."""


def root_tar() -> Path:
    """The tar of the userland, built when it is not there yet; CannotEmulate where it cannot be."""
    ready_to_emulate()
    folder = cache_folder() / recipe_key()
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / "root.tar"
    with _alone(folder):
        if not final.is_file():
            _build(final)
    return final


def recipe_key() -> str:
    """What names the built tree: another recipe, another tree."""
    return hashlib.sha256("\n".join((SUITE, *RECIPE)).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where trees are kept; EDGEBENCH_TEST_CACHE moves it, as for the other tests."""
    moved = os.environ.get("EDGEBENCH_TEST_CACHE")
    return Path(moved) / "arm64" if moved else _user_cache() / "edgebench" / "arm64"


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~").expanduser() / ".cache")


# --- emulation -----------------------------------------------------------------------------------


def ready_to_emulate() -> None:
    """Make the kernel start aarch64 programs through qemu; CannotEmulate where it does not."""
    if os.geteuid() != 0:
        raise CannotEmulate(
            "root: an aarch64 userland needs mounts and namespaces; try: sudo make test-arm64"
        )
    for program, package in TOOLS.items():
        if shutil.which(program) is None:
            raise CannotEmulate(f"{program}: apt-get install {package}")
    if not (BINFMT / "register").exists():
        _step(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], "binfmt_misc cannot be mounted")
    handler = BINFMT / "qemu-aarch64"
    if not handler.exists():
        _step(["update-binfmts", "--enable", "qemu-aarch64"], "qemu-aarch64 cannot be registered")
    if "F" not in _flags(handler):
        raise CannotEmulate(
            "binfmt_misc with flag F: its qemu-aarch64 handler is not found inside a chroot; "
            "apt-get install --reinstall qemu-user-static"
        )


def _flags(handler: Path) -> str:
    try:
        lines = handler.read_text().splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("flags:").strip() for line in lines if line.startswith("flags:")), "")


def _step(argv: list[str], problem: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=STEP_S, check=False)
    if done.returncode != 0:
        raise CannotEmulate(f"{problem} ({' '.join(argv)}): {done.stderr.strip() or done.stdout.strip()}")


# --- building ------------------------------------------------------------------------------------


def package_sources(listed: str) -> tuple[str, ...]:
    """`deb` lines for SUITE, from apt's own list of sources (see `_listed_sources`); () without Debian's.

    A computer with another release of Debian gives its mirror, which has this release too.
    """
    rows = [row for line in listed.splitlines() if len(row := line.split(" ")) == 4]
    debian = [
        (uri, suite) for origin, uri, suite, component in rows if (origin, component) == ("Debian", "main")
    ]
    own = [(uri, suite) for uri, suite in debian if suite.split("-")[0] == SUITE]
    mirrors = own or [(uri, SUITE) for uri, suite in debian if "-" not in suite]
    return tuple(dict.fromkeys(f"deb {uri} {suite} main" for uri, suite in mirrors))


def _listed_sources(*, updated: bool = False) -> str:
    """Apt's list of sources; without an index (images come without) it does not know whose they are."""
    if updated:
        _step(["apt-get", "update", "-qq"], "apt cannot reach its sources")
    argv = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(CODENAME) $(COMPONENT)"]
    done = subprocess.run(
        [*argv, "Created-By: Packages"], capture_output=True, text=True, timeout=STEP_S, check=False
    )
    return done.stdout


def _build(final: Path) -> None:
    sources = package_sources(_listed_sources()) or package_sources(_listed_sources(updated=True))
    if not sources:
        raise CannotEmulate("a Debian mirror: apt on this computer knows none")
    print(f"building the aarch64 userland once (minutes): {final}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=final.parent) as folder:
        part = Path(folder) / "root.tar"
        log = final.with_suffix(".log")
        with log.open("w") as output:
            done = subprocess.run(
                ["mmdebstrap", *RECIPE, *_fetching(Path(folder)), SUITE, str(part), *sources],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=BUILD_S,
                check=False,
            )
        if done.returncode != 0:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise CannotEmulate(f"mmdebstrap ended with {done.returncode}; all of it is in {log}:\n{tail}")
        os.replace(part, final)


def _fetching(folder: Path) -> tuple[str, ...]:
    """How this computer's apt reaches its mirrors (proxies, certificates), for the new tree's apt."""
    dumped = subprocess.run(
        ["apt-config", "dump"], capture_output=True, text=True, timeout=STEP_S, check=False
    ).stdout
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-")
    lines = [line for line in dumped.splitlines() if line.startswith(wanted)]
    settings = folder / "fetching.conf"
    settings.write_text("\n".join(lines) + "\n")
    return (f"--aptopt={settings}",)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two runs at once build one tree."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build the tree where it is not there, and say where it is."""
    try:
        print(root_tar())
    except MissingTool as missing:
        print(f"missing tool: {missing}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
