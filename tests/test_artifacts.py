"""Artifacts on disk: what was put comes back unchanged, or not at all."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.artifacts import ArtifactStore
from edgebench.errors import BugError, InfrastructureError, UserError
from edgebench.records import Artifact, OutputParity, ParityBound, ParityReport, Tensor, encode_exact, replace
from tests.disks import small_disk

__all__ = ["small_disk"]

TENSOR = Tensor(name="x", dtype="float32", shape=(1, 3))


def draft(key: str = "key", **changes: object) -> Artifact:
    artifact = Artifact(
        digest="",
        key=key,
        runtime="onnxruntime",
        precision="fp32",
        model="digits",
        variant="fp32",
        model_digest="0" * 64,
        files=(),
        size_bytes=0,
        entry={"model": "model.onnx"},
        inputs=(TENSOR,),
        outputs=(TENSOR,),
        tool_versions={"onnxruntime": "1.20"},
        lineage=("digits",),
        convert_s=1.5,
    )
    return replace(artifact, **changes)


def made(folder: Path, **files: bytes) -> Path:
    """A converter's output folder; dots and slashes of names are written as `_` and `__`."""
    for name, data in (files or {"model_onnx": b"network"}).items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def report(snr_db: float = math.inf) -> ParityReport:
    bound = ParityBound(precision="fp32", max_abs_share=1e-4, min_snr_db=60, min_cosine=0.999)
    output = OutputParity(
        name="y", max_abs=0, max_rel=0, cosine=1, snr_db=snr_db, reference_range=2, passed=True
    )
    return ParityReport(where="controller", reference="ort", bound=bound, outputs=(output,), passed=True)


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, warned: list[str]) -> ArtifactStore:
    return ArtifactStore(tmp_path / "home" / "artifacts", warn=warned.append)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path / "made", model_onnx=b"network", weights__w_bin=b"12345")


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def leftovers(store: ArtifactStore) -> list[Path]:
    return list((store.root / "tmp").iterdir())


# --- putting and finding ------------------------------------------------------------------------


def test_put_then_lookup_get_and_path(store: ArtifactStore, folder: Path) -> None:
    artifact = store.put(folder, draft())
    assert [file.path for file in artifact.files] == ["model.onnx", "weights/w.bin"]
    assert artifact.size_bytes == 12
    assert store.lookup("key") == artifact
    assert store.get(artifact.digest) == store.get(artifact.digest[:8]) == artifact
    assert (store.path(artifact.digest) / "weights" / "w.bin").read_bytes() == b"12345"
    store.verify(artifact.digest)
    assert store.all() == (artifact,)
    assert folder.joinpath("model.onnx").exists()
    assert leftovers(store) == []


def test_another_store_on_the_same_folder_finds_it(store: ArtifactStore, folder: Path) -> None:
    artifact = store.put(folder, draft())
    assert ArtifactStore(store.root).lookup("key") == artifact


def test_files_are_read_only(store: ArtifactStore, folder: Path) -> None:
    artifact = store.put(folder, draft())
    for file in store.path(artifact.digest).rglob("*.*"):
        assert file.stat().st_mode & 0o777 == 0o444


def test_unknown_key_and_digest(store: ArtifactStore, folder: Path) -> None:
    assert store.lookup("nothing") is None
    assert store.all() == ()
    store.put(folder, draft())
    assert store.lookup("nothing") is None
    for ask in (store.get, store.path, store.verify):
        with pytest.raises(UserError, match="there is no artifact"):
            ask("ab" * 32)
    with pytest.raises(UserError, match="there is no artifact abcdef"):
        store.get("abcdef" if not store.all()[0].digest.startswith("abcdef") else "abcdee")


@pytest.mark.parametrize("digest", ["", "abc", "../../etc/passwd", "AB" * 32, "ab" * 33])
def test_a_text_that_is_no_digest_is_refused(store: ArtifactStore, digest: str) -> None:
    with pytest.raises(UserError, match="is no artifact digest"):
        store.get(digest)
    with pytest.raises(BugError):
        store.remember_parity(digest, report(), "inputs")


def test_the_digest_names_contents_not_keys(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    first = store.put(folder, draft("a", convert_s=1.0))
    second = store.put(folder, draft("b", convert_s=2.0))
    assert first.digest == second.digest
    assert (store.lookup("a"), store.lookup("b")) == (first, second)
    assert store.get(first.digest) == first
    assert len(store.all()) == 1
    other_runtime = store.put(folder, draft("c", runtime="openvino"))
    other_bytes = store.put(made(tmp_path / "other", model_onnx=b"networK"), draft("d"))
    other_options = store.put(folder, draft("e", options={"fp16": "on"}))
    assert len({a.digest for a in (first, other_runtime, other_bytes, other_options)}) == 4


def test_a_key_put_again_names_the_newer_artifact(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    store.put(folder, draft())
    newer = store.put(made(tmp_path / "newer", model_onnx=b"other"), draft())
    assert store.lookup("key") == newer


@settings(max_examples=25, deadline=None)
@given(
    key=st.text(st.characters(codec=None)),
    files=st.dictionaries(
        st.text("abcXYZ 01-é", min_size=1).map(str.strip).filter(bool), st.binary(), min_size=1, max_size=4
    ),
)
def test_anything_put_comes_back(key: str, files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "made")
        source.mkdir()
        for file, data in files.items():
            source.joinpath(file).write_bytes(data)
        store = ArtifactStore(Path(name, "artifacts"))
        artifact = store.put(source, draft(key, entry={"model": min(files)}))
        assert store.lookup(key) == artifact
        assert {f.path: (store.path(artifact.digest) / f.path).read_bytes() for f in artifact.files} == files
        store.verify(artifact.digest)
        again = ArtifactStore(Path(name, "elsewhere")).put(source, draft("x", entry={"model": min(files)}))
        assert again.digest == artifact.digest


def test_an_entry_may_name_a_folder(store: ArtifactStore, folder: Path) -> None:
    assert store.put(folder, draft(entry={"weights": "weights"})).entry == {"weights": "weights"}


def test_broken_folders_are_refused(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BugError, match="holds no file"):
        store.put(tmp_path / "empty", draft())
    with pytest.raises(BugError, match=r"entry \"model\" is \"net.onnx\""):
        store.put(folder, draft(entry={"model": "net.onnx"}))
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(BugError, match='"link" is no regular file'):
        store.put(folder, draft())
    assert store.all() == ()


# --- damage -------------------------------------------------------------------------------------


def test_lookup_drops_an_artifact_with_a_missing_file(
    store: ArtifactStore, folder: Path, warned: list[str]
) -> None:
    artifact = store.put(folder, draft())
    (store.path(artifact.digest) / "model.onnx").unlink()
    assert store.lookup("key") is None
    assert "model.onnx" in warned[0]
    assert store.all() == ()
    assert store.lookup("key") is None
    assert len(warned) == 1
    assert store.put(folder, draft()) == artifact == store.lookup("key")


def test_lookup_drops_an_artifact_with_a_shorter_file(
    store: ArtifactStore, folder: Path, warned: list[str]
) -> None:
    artifact = store.put(folder, draft())
    damage(store.path(artifact.digest) / "model.onnx", b"net")
    assert store.lookup("key") is None
    assert "has 3 bytes, not 7" in warned[0]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": 1}', b"[" * 100_000, b'{"schema_version": 0}'],
)
def test_lookup_drops_a_damaged_key(
    store: ArtifactStore, folder: Path, warned: list[str], data: bytes
) -> None:
    store.put(folder, draft())
    (key_file,) = (store.root / "keys").iterdir()
    damage(key_file, data)
    assert store.lookup("key") is None
    assert len(warned) == 1
    assert list((store.root / "keys").iterdir()) == []


def test_a_key_file_of_another_key_is_not_believed(
    store: ArtifactStore, folder: Path, warned: list[str]
) -> None:
    store.put(folder, draft("a"))
    (a_file,) = (store.root / "keys").iterdir()
    store.put(folder, draft("b"))
    (b_file,) = {*(store.root / "keys").iterdir()} - {a_file}
    damage(a_file, b_file.read_bytes())
    assert store.lookup("a") is None
    assert store.lookup("b") is not None
    assert len(warned) == 1


def test_a_changed_manifest_is_not_believed(store: ArtifactStore, folder: Path, warned: list[str]) -> None:
    artifact = store.put(folder, draft())
    manifest = store.path(artifact.digest).parent / "manifest.json"
    damage(manifest, manifest.read_bytes().replace(b"onnxruntime", b"openvino"))
    with pytest.raises(InfrastructureError, match="the manifest of artifact"):
        store.get(artifact.digest)
    assert store.all() == ()
    assert store.put(folder, draft()) == artifact
    assert store.get(artifact.digest) == artifact
    manifest.unlink()
    with pytest.raises(InfrastructureError, match="lost its manifest"):
        store.get(artifact.digest)
    assert warned


def test_verify_names_a_changed_file_and_removes_the_artifact(
    store: ArtifactStore, folder: Path, warned: list[str]
) -> None:
    artifact = store.put(folder, draft())
    damage(store.path(artifact.digest) / "weights" / "w.bin", b"12346")
    assert store.lookup("key") == artifact  # the size is right, and lookup reads no contents
    with pytest.raises(InfrastructureError, match=r'"weights/w.bin" .* was changed') as caught:
        store.verify(artifact.digest)
    assert caught.value.hint
    assert store.lookup("key") is None
    assert len(warned) == 1


def test_verify_finds_a_foreign_file(store: ArtifactStore, folder: Path) -> None:
    artifact = store.put(folder, draft())
    (store.path(artifact.digest) / "extra").write_bytes(b"")
    with pytest.raises(InfrastructureError, match='foreign file "extra"'):
        store.verify(artifact.digest)


def test_put_replaces_a_changed_copy(store: ArtifactStore, folder: Path, warned: list[str]) -> None:
    artifact = store.put(folder, draft())
    damage(store.path(artifact.digest) / "model.onnx", b"NETWORK")
    assert store.put(folder, draft()) == artifact
    store.verify(artifact.digest)
    assert "is replaced" in warned[0]


def test_a_newer_edgebench_is_advised(store: ArtifactStore, folder: Path) -> None:
    store.put(folder, draft())
    (key_file,) = (store.root / "keys").iterdir()
    damage(key_file, b'{"schema_version": 99, "unheard": []}')
    with pytest.raises(InfrastructureError, match="newer edgebench") as caught:
        store.lookup("key")
    assert "upgrade" in caught.value.hint


# --- taking away --------------------------------------------------------------------------------


def three(store: ArtifactStore, tmp_path: Path) -> list[Artifact]:
    """Three artifacts of 10 bytes, last used 3000, 2000 and 1000 s ago."""
    artifacts = []
    for number in range(3):
        source = made(tmp_path / f"made{number}", model_onnx=f"network {number:2}".encode())
        artifact = store.put(source, draft(f"key {number}"))
        used = (store.path(artifact.digest).parent / "manifest.json").stat().st_mtime - 3000 + 1000 * number
        os.utime(store.path(artifact.digest).parent / "manifest.json", (used, used))
        artifacts.append(artifact)
    return artifacts


def test_prune_by_size_takes_the_longest_unused(store: ArtifactStore, tmp_path: Path) -> None:
    a, b, c = three(store, tmp_path)
    assert store.lookup("key 0") == a  # used now
    assert store.prune(keep_bytes=20, spare_s=0) == ((b.digest,), 10)
    assert store.lookup("key 1") is None
    assert {x.digest for x in store.all()} == {a.digest, c.digest}
    assert len(list((store.root / "keys").iterdir())) == 2


def test_prune_by_age_and_what_it_spares(store: ArtifactStore, tmp_path: Path) -> None:
    a, b, c = three(store, tmp_path)
    assert store.prune(older_than_s=10, keep_bytes=0).digests == ()  # all were used in the last hour
    assert store.prune(older_than_s=1500, spare_s=0).digests == (a.digest, b.digest)
    assert store.prune(spare_s=0).digests == ()
    assert store.prune(keep_bytes=0, spare_s=0) == ((c.digest,), 10)
    assert store.all() == ()


def test_prune_takes_damaged_artifacts_and_their_parity(store: ArtifactStore, folder: Path) -> None:
    artifact = store.put(folder, draft())
    store.remember_parity(artifact.digest, report(), "inputs")
    damage(store.path(artifact.digest).parent / "manifest.json", b"?")
    assert store.prune().digests == (artifact.digest,)
    assert store.recall_parity(artifact.digest, "inputs") is None
    assert store.lookup("key") is None


# --- parity -------------------------------------------------------------------------------------


def test_parity_is_remembered_exactly(store: ArtifactStore, folder: Path) -> None:
    digest = store.put(folder, draft()).digest
    assert store.recall_parity(digest, "inputs") is None
    store.remember_parity(digest, report(), "inputs")
    store.remember_parity(digest, report(snr_db=71.25), "other inputs")
    assert store.recall_parity(digest, "inputs") == report()
    assert store.recall_parity(digest, "other inputs") == report(snr_db=71.25)
    store.remember_parity(digest, report(snr_db=1), "inputs")
    assert store.recall_parity(digest, "inputs") == report(snr_db=1)


def test_damaged_parity_is_forgotten(store: ArtifactStore, folder: Path, warned: list[str]) -> None:
    digest = store.put(folder, draft()).digest
    store.remember_parity(digest, report(), "inputs")
    (file,) = (store.root / "parity" / digest).iterdir()
    damage(file, file.read_bytes()[:-4])
    assert store.recall_parity(digest, "inputs") is None
    assert len(warned) == 1
    assert not file.exists()


# --- crashes, crowds, full and closed disks -----------------------------------------------------

PUT = """
import sys
from pathlib import Path
from edgebench.artifacts import ArtifactStore
from edgebench.records import Artifact, decode_exact
root, folder, draft = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    artifact = ArtifactStore(Path(root)).put(Path(folder), decode_exact(Artifact, draft, source="draft"))
print(artifact.digest)
"""


def test_processes_that_put_the_same_artifact_all_succeed(store: ArtifactStore, folder: Path) -> None:
    command = [sys.executable, "-c", PUT, str(store.root), str(folder), encode_exact(draft())]
    crowd = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in crowd:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    digests = {process.communicate("\n", timeout=60)[0] for process in crowd}
    assert [process.returncode for process in crowd] == [0, 0, 0]
    artifact = store.lookup("key")
    assert artifact is not None
    assert digests == {artifact.digest + "\n"}
    store.verify(artifact.digest)
    assert leftovers(store) == []


def test_threads_that_put_look_up_and_prune(store: ArtifactStore, tmp_path: Path, warned: list[str]) -> None:
    folders = [made(tmp_path / f"made{n}", model_onnx=bytes([n]) * 1000) for n in range(2)]

    def work(number: int) -> None:
        for _ in range(10):
            source = folders[number % 2]
            artifact = store.put(source, draft(f"key {number % 2}"))
            assert store.lookup(artifact.key) in (artifact, None)  # None: pruned in between
            if number == 0:
                store.prune(keep_bytes=1000, spare_s=0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert warned == []
    assert leftovers(store) == []


def test_a_killed_put_leaves_nothing_visible(store: ArtifactStore, tmp_path: Path) -> None:
    large = made(tmp_path / "large")
    os.truncate(large / "model.onnx", 1 << 30)  # a hole: takes no room here, and a second to copy
    command = [sys.executable, "-c", PUT, str(store.root), str(large), encode_exact(draft())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        while process.poll() is None and not list(store.root.glob("tmp/*/object/files/*")):
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        assert len(leftovers(store)) == 1
        assert store.lookup("key") is None
        other = store.put(made(tmp_path / "other"), draft("other"))
        assert len(leftovers(store)) == 1  # its owner lives, so it stays
        process.kill()
        process.wait(timeout=30)
    assert store.lookup("key") is None
    assert store.all() == (other,)
    store.prune()
    assert leftovers(store) == []
    assert store.all() == (other,)


def test_a_full_disk_is_told_with_numbers(small_disk: Path, tmp_path: Path) -> None:
    store = ArtifactStore(small_disk / "artifacts")
    kept = store.put(made(tmp_path / "fits", model_onnx=b"x" * 300_000), draft("fits"))
    with pytest.raises(InfrastructureError, match=r"is full: .* free, 1.91 MiB wanted"):
        store.put(made(tmp_path / "large", model_onnx=b"x" * 2_000_000), draft("large"))
    # fits by its size, but not with its folders and manifest
    free = shutil.disk_usage(small_disk).free
    with pytest.raises(InfrastructureError, match="is full"):
        store.put(made(tmp_path / "nearly", model_onnx=b"x" * free), draft("nearly"))
    assert leftovers(store) == []
    assert store.all() == (kept,)
    assert store.lookup("large") is None


def test_a_root_that_is_a_file_is_told(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = ArtifactStore(tmp_path / "file")
    with pytest.raises(InfrastructureError, match="cannot be used"):
        store.put(folder, draft())
    assert store.lookup("key") is None


def test_a_damaged_entry_on_a_read_only_disk_is_not_served(
    small_disk: Path, tmp_path: Path, warned: list[str]
) -> None:
    store = ArtifactStore(small_disk / "artifacts", warn=warned.append)
    artifact = store.put(made(tmp_path / "made"), draft())
    damage(store.path(artifact.digest) / "model.onnx", b"")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert store.lookup("key") is None
    assert len(warned) == 1
    with pytest.raises(InfrastructureError, match="cannot be used"):
        store.put(made(tmp_path / "more", model_onnx=b"more"), draft("more"))


def test_taken_files_are_moved_and_give_the_same_artifact(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    copied, taken = tmp_path / "copied", tmp_path / "taken"
    for folder in (copied, taken):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"weights" * 1000)
    first = store.put(copied, draft(key="a"))
    second = store.put(taken, draft(key="b"), take=True)
    assert first.digest == second.digest
    assert (copied / "model.onnx").exists()
    assert not (taken / "model.onnx").exists()
    store.verify(second.digest)
