"""A `.mlpackage` whose bytes depend on the model alone: no dates, no random identifiers, maps in order."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coremltools.proto import Model_pb2

from edgebench.errors import ModelError

MAX_RANK = 5  # Core ML's own limit
_FAMILY = uuid.UUID("6d1f5b0e-5f0a-5c53-9a5e-3c1b0f2a7d41")  # ours, for names inside packages
# what has a field of its own in the description -> its name there
_FIELDS = {"author": "author", "license": "license", "version": "versionString"}
_DATE = "com.github.apple.coremltools.conversion_date"


def save(model: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the converted model to the folder `path`; ModelError when a tensor has more than 5 axes."""
    shutil.move(model.package_path, path)  # coremltools keeps it in a temporary folder
    program = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(program.read_bytes())
    _check_ranks(spec)
    described = spec.description.metadata
    described.userDefined.pop(_DATE, None)
    for key, value in metadata.items():
        if key in _FIELDS:
            setattr(described, _FIELDS[key], value)
        else:
            described.userDefined[key] = value
    program.write_bytes(spec.SerializeToString(deterministic=True))
    _fix_manifest(path / "Manifest.json")


def _check_ranks(spec: Any) -> None:
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for operation in block.operations:
                for output in operation.outputs:
                    rank = output.type.tensorType.rank
                    what = f'{operation.type} "{output.name}"'
                    if rank > MAX_RANK:
                        raise ModelError(
                            f"{what} has {rank} axes, and Core ML has at most {MAX_RANK}",
                            hint="join axes in the model; onnxruntime and openvino take it as it is",
                        )


def _fix_manifest(path: Path) -> None:
    """Random identifiers become such as follow from the names of what they identify."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    entries = manifest.get("itemInfoEntries", {})
    renamed = {key: _identifier(entry["path"]) for key, entry in entries.items()}
    manifest["itemInfoEntries"] = {
        renamed[key]: entries[key] for key in sorted(entries, key=lambda k: str(entries[k]["path"]))
    }
    root = manifest.get("rootModelIdentifier")
    if root in renamed:
        manifest["rootModelIdentifier"] = renamed[root]
    path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def _identifier(name: str) -> str:
    return str(uuid.uuid5(_FAMILY, name)).upper()
