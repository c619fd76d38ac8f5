"""Uploads, artifacts and bundles through a real session."""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import stat
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgebench.probe import wheels
from edgebench.probe.wire import ProbeError
from tests.probe.harness import DEADLINE_S, Probe, files_below, sha256, wheel

CONTENT = b"some bytes\n" * 1000
DIGEST = sha256(CONTENT)
ENTRY = {"sha256": DIGEST, "size_bytes": len(CONTENT)}


def upload(probe: Probe, content: bytes, digest: str = DIGEST) -> Path:
    path = Path(probe.result("have", files=[ENTRY])["incoming"], f"{digest}.part")
    path.write_bytes(content)
    return path


def test_an_upload_becomes_a_file_of_the_store(probe: Probe) -> None:
    have = probe.result("have", files=[ENTRY])
    assert have["missing"] == [DIGEST]
    assert have["partial"] == {}
    assert have["free_bytes"] > 0
    part = upload(probe, CONTENT)
    assert probe.result("commit", **ENTRY) == {}
    assert not part.exists()
    assert (probe.work / "store" / DIGEST).read_bytes() == CONTENT
    assert probe.result("have", files=[ENTRY])["missing"] == []
    assert probe.result("commit", **ENTRY) == {}  # again: nothing to do


def test_a_part_can_be_resumed(probe: Probe) -> None:
    part = upload(probe, CONTENT[:100])
    assert probe.result("have", files=[ENTRY])["partial"] == {DIGEST: 100}
    with part.open("ab") as file:
        file.write(CONTENT[100:])
    assert probe.result("commit", **ENTRY) == {}


def test_a_part_that_is_too_long_starts_anew(probe: Probe) -> None:
    part = upload(probe, CONTENT + b"more")
    assert probe.result("have", files=[ENTRY])["partial"] == {}
    assert not part.exists()


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"X", b""])
def test_a_damaged_upload_is_corrupt_and_removed(probe: Probe, content: bytes) -> None:
    part = upload(probe, content)
    error = probe.error("commit", **ENTRY)
    assert error["kind"] == "corrupt"
    assert not part.exists()
    assert os.listdir(probe.work / "store") == []


def test_nothing_uploaded_is_corrupt(probe: Probe) -> None:
    assert probe.error("commit", **ENTRY)["kind"] == "corrupt"


def test_a_link_is_no_upload(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    incoming = Path(probe.result("have", files=[])["incoming"])
    (incoming / f"{DIGEST}.part").symlink_to(tmp_path / "secret")
    assert probe.error("commit", **ENTRY)["kind"] == "corrupt"
    assert (tmp_path / "secret").exists()


def test_an_artifact_is_made_of_links(probe: Probe) -> None:
    path = probe.place({"model.onnx": CONTENT, "deep/er/data.bin": b"x"})
    assert Path(path, "model.onnx").read_bytes() == CONTENT
    assert Path(path, "deep/er/data.bin").read_bytes() == b"x"
    assert Path(path, "model.onnx").stat().st_nlink == 2
    assert stat.S_IMODE(Path(path, "model.onnx").stat().st_mode) == 0o400
    assert probe.place({"model.onnx": CONTENT, "deep/er/data.bin": b"x"}) == path


def test_a_spoiled_artifact_is_made_again(probe: Probe) -> None:
    path = probe.place({"model.onnx": CONTENT, "b": b"x"})
    Path(path, "model.onnx").unlink()
    assert probe.place({"model.onnx": CONTENT, "b": b"x"}) == path
    assert Path(path, "model.onnx").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a/../../x", "", ".", "a//b", "a/./b", "a\\b", "a\0b", "x" * 2000, 7, None]
)
def test_artifact_paths_stay_inside(hardy: Probe, path: object) -> None:
    (entry,) = hardy.push(CONTENT)
    error = hardy.error("assemble", digest="a" * 64, files=[{"path": path, **entry}])
    assert error["kind"] == "bad_request"
    assert os.listdir(hardy.work / "artifacts") == []


@pytest.mark.parametrize("paths", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_artifact_paths_that_collide(hardy: Probe, paths: tuple[str, str]) -> None:
    (entry,) = hardy.push(CONTENT)
    error = hardy.error("assemble", digest="a" * 64, files=[{"path": path, **entry} for path in paths])
    assert error["kind"] == "corrupt"
    assert os.listdir(hardy.work / "artifacts") == []


def test_an_artifact_needs_its_files(probe: Probe) -> None:
    error = probe.error("assemble", digest="a" * 64, files=[{"path": "x", **ENTRY}])
    assert error["kind"] == "bad_request"
    assert DIGEST in error["message"]


def test_a_bundle_is_its_wheels_side_by_side(probe: Probe) -> None:
    path = Path(
        probe.bundle(
            wheel(
                {"one/__init__.py": "x = 1\n", "one-1.data/scripts/tool": "", "one-1.data/headers/a.h": ""}
            ),
            wheel({"two-1.data/purelib/two.py": "y = 2\n", "two-1.data/platlib/lib/z.txt": "z"}),
        )
    )
    found = {name for name in files_below(path) if "__pycache__" not in name}
    assert found == {"one/__init__.py", "two.py", "lib/z.txt"}
    assert any(name.endswith(".pyc") for name in files_below(path))
    assert os.listdir(probe.work / "runs")
    assert probe.end() == 0
    assert os.listdir(probe.work / "runs") == []


@pytest.mark.parametrize("pause_s", [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
def test_a_session_that_ends_while_unpacking_leaves_a_whole_bundle_or_none(
    probe: Probe, pause_s: float
) -> None:
    (pushed,) = probe.push(wheel({f"many/{number}.py": f"x = {number}\n" for number in range(400)}))
    probe.start("unpack", digest="c" * 64, wheels=[pushed["sha256"]])
    with contextlib.suppress(queue.Empty):
        probe.lines.get(timeout=pause_s)  # until it is done, or somewhere in the middle
    assert probe.process.stdin
    probe.process.stdin.close()
    assert probe.process.wait(DEADLINE_S) == 0
    bundle = probe.work / "bundles" / ("c" * 64)
    assert len(list(bundle.glob("many/*.py"))) in ((400,) if bundle.exists() else (0,))


def test_a_bundle_that_is_there_needs_no_wheels(probe: Probe) -> None:
    path = probe.bundle(wheel({"one.py": "x = 1\n"}))
    assert probe.result("unpack", digest=Path(path).name, wheels=["b" * 64])["path"] == path


def test_broken_python_in_a_wheel_does_not_stop_it(probe: Probe) -> None:
    assert Path(probe.bundle(wheel({"bad.py": "def (:\n"})), "bad.py").exists()


def bad_archive(name: str, mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        bad_archive("../evil.py"),
        bad_archive("/evil.py"),
        bad_archive("a/../../evil.py"),
        bad_archive("one-1.data/purelib/../../../evil.py"),
        bad_archive("a\\..\\evil.py"),
        bad_archive("link", stat.S_IFLNK | 0o777),
        b"",
        b"PK\x03\x04 not really",
        wheel({"a.py": "x = 1\n" * 100})[:-30],
    ],
)
def test_bad_wheels_are_corrupt(hardy: Probe, content: bytes) -> None:
    (entry,) = hardy.push(content)
    error = hardy.error("unpack", digest="a" * 64, wheels=[entry["sha256"]])
    assert error["kind"] == "corrupt"
    assert os.listdir(hardy.work / "bundles") == []
    assert not list(hardy.work.parent.rglob("evil.py"))


def test_a_wheel_with_a_wrong_checksum_is_corrupt(probe: Probe) -> None:
    content = bytearray(wheel({"a.py": "x = 1111111\n"}))
    content[content.index(b"1111111")] = ord("2")
    (entry,) = probe.push(bytes(content))
    assert probe.error("unpack", digest="a" * 64, wheels=[entry["sha256"]])["kind"] == "corrupt"


def test_a_file_and_a_folder_of_one_name(probe: Probe) -> None:
    entries = probe.push(wheel({"a": "file"}), wheel({"a/b": "below it"}))
    error = probe.error("unpack", digest="a" * 64, wheels=[entry["sha256"] for entry in entries])
    assert error["kind"] == "corrupt"


def entries(count: int, size: int) -> list[zipfile.ZipInfo]:
    made = [zipfile.ZipInfo(f"f{number}") for number in range(count)]
    for entry in made:
        entry.file_size = size
    return made


def test_absurd_wheels_are_refused_before_and_while_writing() -> None:
    with pytest.raises(ProbeError, match="4 GiB") as too_big:
        wheels.Budget(1 << 60).plan(entries(5, 1 << 30))
    assert too_big.value.kind == "corrupt"
    with pytest.raises(ProbeError) as too_many:
        wheels.Budget(1 << 60).plan(entries(1, 0) * 200001)
    assert too_many.value.kind == "corrupt"
    with pytest.raises(ProbeError) as no_room:
        wheels.Budget(1000).plan(entries(1, 1001))
    assert no_room.value.kind == "no_space"
    lying = wheels.Budget(1 << 60)
    lying.plan(entries(1, 1))
    with pytest.raises(ProbeError) as liar:
        lying.spend((4 << 30) + 1)
    assert liar.value.kind == "corrupt"


def test_clean_keeps_what_is_asked_for(probe: Probe) -> None:
    kept, dropped = probe.place({"a": b"kept"}), probe.place({"a": b"dropped" * 100})
    bundle = probe.bundle(wheel({"one.py": "x = 1\n"}))
    upload(probe, b"a part")
    old = probe.work / "probe" / "probe-old.pyz"
    old.parent.mkdir()
    old.write_bytes(b"old" * 100)
    freed = probe.result("clean", keep=[Path(kept).name])["freed_bytes"]
    assert freed > 1000
    assert os.listdir(probe.work / "artifacts") == [Path(kept).name]
    assert os.listdir(probe.work / "store") == [sha256(b"kept")]
    assert not Path(dropped).exists()
    assert not Path(bundle).exists()
    assert not old.exists()
    assert os.listdir(probe.work / "incoming") == []
    assert probe.result("clean", keep=[])["freed_bytes"] > 0
    assert os.listdir(probe.work / "store") == []
    assert probe.result("clean", keep=[])["freed_bytes"] == 0


def test_clean_spares_the_running_probe(
    open_probe: Callable[..., Probe], program: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work" / "probe"
    folder.mkdir(parents=True)
    mine = folder / "probe-mine.pyz"
    mine.write_bytes(program.read_bytes())
    probe = open_probe(program=mine)
    probe.lease()
    probe.result("clean", keep=[])
    assert mine.exists()


def test_nothing_is_written_outside_the_work_folder(probe: Probe, tmp_path: Path) -> None:
    probe.place({"a": CONTENT})
    probe.bundle(wheel({"one.py": "x = 1\n"}))
    assert probe.end() == 0
    assert [name for name in os.listdir(tmp_path) if name != "work"] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, mounted where the work folder will be."""
    work = tmp_path / "work"
    work.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(work)]
    if (
        os.geteuid() != 0
        or subprocess.run(argv, capture_output=True, check=False, timeout=30).returncode != 0
    ):
        pytest.skip("a small file system can only be mounted by root")
    yield work
    subprocess.run(["umount", "-l", str(work)], check=False, timeout=30)


def test_a_full_disk_is_no_space(small_disk: Path, open_probe: Callable[..., Probe]) -> None:
    probe = open_probe()
    probe.lease()
    (entry,) = probe.push(wheel({"big.txt": "x" * 150_000}))
    error = probe.error("unpack", digest="a" * 64, wheels=[entry["sha256"]])
    assert error["kind"] == "no_space"
    assert os.listdir(small_disk / "bundles") == []
    assert json.dumps(error).isascii()
    assert probe.end() == 0
