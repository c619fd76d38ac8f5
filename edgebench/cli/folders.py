"""Artifacts in folders: what `convert -o` writes and `verify` reads."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgebench.artifacts import ArtifactStore
from edgebench.errors import InfrastructureError, UserError
from edgebench.pipeline import Workbench
from edgebench.records import Artifact, decode, encode

MANIFEST = "edgebench.json"  # lies beside an artifact's files where `convert -o` wrote them


def copy_artifact(artifact: Artifact, source: Path, folder: Path) -> Path:
    """The artifact with its manifest in `folder`, complete or not at all; replaces an older one."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".edgebench-", dir=folder.parent) as scratch:
            staged = Path(scratch) / "new"
            shutil.copytree(source, staged, copy_function=shutil.copyfile)
            (staged / MANIFEST).write_bytes(encode(artifact))
            if folder.exists():
                _check_ours(folder)
                os.rename(folder, Path(scratch) / "old")
            os.rename(staged, folder)
    except OSError as error:
        raise InfrastructureError(
            f"the artifact cannot be written to {folder}: {error.strerror}",
            hint="choose another folder with -o, or free space",
        ) from error
    return folder


def _check_ours(folder: Path) -> None:
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder} is there already and is no artifact of ours", hint="choose another -o, or remove it"
        )


@contextmanager
def found_artifact(name: str, bench: Workbench) -> Iterator[tuple[Artifact, Path]]:
    """The artifact in a folder written by `convert -o`, or in the store, with its checked files.

    A folder's files never enter our artifact store: its manifest says what it likes.
    """
    if (Path(name) / MANIFEST).is_file():
        with bench.scratch() as scratch:
            yield _checked_copy(Path(name), scratch)
    elif Path(name).exists():
        raise UserError(
            f"{name} holds no artifact ({MANIFEST} is missing)", hint="edgebench convert MODEL -o DIR"
        )
    else:
        artifact = bench.artifacts.get(name)
        bench.artifacts.verify(artifact.digest)
        yield artifact, bench.artifacts.path(artifact.digest)


def _checked_copy(folder: Path, scratch: Path) -> tuple[Artifact, Path]:
    """The artifact of a folder and a copy of its files, which are those that its manifest names."""
    artifact = decode(Artifact, (folder / MANIFEST).read_bytes(), source=str(folder / MANIFEST))
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    if there == {MANIFEST, *(file.path for file in artifact.files)}:
        shutil.copytree(folder, scratch / "files", ignore=shutil.ignore_patterns(MANIFEST))
        store = ArtifactStore(scratch / "store")
        stored = store.put(scratch / "files", artifact)
        if stored.digest == artifact.digest:
            return stored, store.path(stored.digest)
    raise InfrastructureError(
        f"the files in {folder} are not those of its {MANIFEST}: they were changed afterwards",
        hint="run edgebench convert again",
    )
