"""`edgebench inspect`, and what every command says to a file that is no sound model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from edgebench.records import ModelInfo, from_json
from tests.commands import DIGITS, Cli
from tests.models import generate


def test_a_model_in_words_and_in_json(cli: Cli) -> None:
    text = cli("inspect", DIGITS).out
    for word in ("digest", "opset", "input 0", "output 0", "parameters", "MACs", "size", "operators", "Conv"):
        assert word in text
    document = cli.json("inspect", DIGITS)
    info = from_json(ModelInfo, document, source="inspect")
    assert info.precision == "fp32"
    assert info.sparsity == 0
    assert info.macs is not None
    assert info.digest in text


def test_symbols_of_open_shapes_are_kept(cli: Cli) -> None:
    path = generate.write(cli.folder, "conv_net_dynamic_size")
    document = cli.json("inspect", path)
    assert document["inputs"][0]["shape"] == ["N", 3, "H", "W"]
    assert document["macs"] is None
    assert "[N, 3, H, W]" in cli("inspect", path).out


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("conv_net", "fp32"),
        ("conv_net_fp16", "fp16"),
        ("conv_net_qdq", "int8-qdq"),
        ("conv_net_integer", "int8-dynamic"),
    ],
)
def test_the_precision_is_read_from_the_graph(cli: Cli, name: str, precision: str) -> None:
    assert cli.json("inspect", generate.write(cli.folder, name))["precision"] == precision


# --- what is no sound model ----------------------------------------------------------------------


def missing(folder: Path) -> Path:
    return folder / "nothing.onnx"


def a_folder(folder: Path) -> Path:
    (folder / "folder.onnx").mkdir()
    return folder / "folder.onnx"


def empty(folder: Path) -> Path:
    (folder / "empty.onnx").write_bytes(b"")
    return folder / "empty.onnx"


def not_onnx(folder: Path) -> Path:
    (folder / "picture.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    return folder / "picture.onnx"


def truncated(folder: Path) -> Path:
    content = Path(DIGITS).read_bytes()
    (folder / "half.onnx").write_bytes(content[: len(content) // 2])
    return folder / "half.onnx"


def newer_opset(folder: Path) -> Path:
    return generate.write(folder, "newer_opset")


def data_missing(folder: Path) -> Path:
    path = generate.write_external(folder)
    (folder / "weights.bin").unlink()
    return path


def data_outside(folder: Path) -> Path:
    inside = folder / "inside"
    inside.mkdir()
    path = generate.write_external(inside)
    (inside / "weights.bin").rename(folder / "weights.bin")
    loaded = onnx.load(path, load_external_data=False)
    for weight in loaded.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    return generate.save(loaded, path)


BROKEN: list[tuple[Callable[[Path], Path], int, str, str]] = [
    (missing, 2, "user", "nothing.onnx"),
    (a_folder, 2, "user", "folder"),
    (empty, 4, "model", "empty"),
    (not_onnx, 4, "model", "picture.onnx"),
    (truncated, 4, "model", "half.onnx"),
    (newer_opset, 4, "model", "opset"),
    (data_missing, 4, "model", "weights.bin"),
    (data_outside, 4, "model", "outside"),
]


@pytest.mark.parametrize(
    ("make", "code", "owner", "told"), BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
@pytest.mark.parametrize("verb", ["inspect", "convert", "run"])
def test_what_is_no_sound_model(
    fresh_cli: Cli, verb: str, make: Callable[[Path], Path], code: int, owner: str, told: str
) -> None:
    rest = {"inspect": (), "convert": ("--to", "onnxruntime", "-o", "out"), "run": ("--to", "onnxruntime")}[
        verb
    ]
    assert told in fresh_cli.fails(code, owner, verb, make(fresh_cli.folder), *rest)
    assert fresh_cli.leftovers() == []
    assert not (fresh_cli.folder / "out").exists()
    assert not (fresh_cli.home / "store.sqlite").exists()
