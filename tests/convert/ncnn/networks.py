"""Networks for the int8 tests: what pnnx makes of ONNX models, and how ncnn runs files."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from onnx import ModelProto

from edgebench.convert.ncnn import param
from edgebench.convert.ncnn.param import Network
from edgebench.tools import find_pnnx
from tests.convert.support import pnnx_home
from tests.models import generate


def needs_ncnn() -> None:
    """A skip where ncnn is not installed."""
    pytest.importorskip("ncnn", reason="missing tool: the Python package ncnn")


@cache
def float_files(name: str) -> Path:
    """A folder with m.ncnn.param and m.ncnn.bin, made by pnnx from a generated model; made once."""
    folder = Path(mkdtemp(prefix="edgebench-tests-"))
    generate.write(folder, name, "m.onnx")
    return through_pnnx(folder)


def through_pnnx(folder: Path) -> Path:
    """The folder, after pnnx has made ncnn's files of its m.onnx."""
    command = [str(find_pnnx(pnnx_home())), "m.onnx", "fp16=0"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


def saved(model: ModelProto, folder: Path) -> Path:
    """The folder, with ncnn's files of a model."""
    generate.save(model, folder / "m.onnx")
    return through_pnnx(folder)


def network(folder: Path) -> Network:
    """What pnnx wrote there."""
    return param.read((folder / "m.ncnn.param").read_text(), (folder / "m.ncnn.bin").read_bytes())


def copied(source: Path, folder: Path) -> Path:
    """The folder, with the files of another."""
    for path in source.glob("m.ncnn.*"):
        shutil.copy(path, folder)
    return folder


def samples(shape: tuple[int, ...], count: int = 4) -> list[dict[str, np.ndarray]]:
    """Seeded samples for the input in0."""
    random = np.random.default_rng(3)
    return [{"in0": random.standard_normal(shape).astype(np.float32)} for _ in range(count)]
