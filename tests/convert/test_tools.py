"""Finding and installing pnnx, and the list of what is ready. pip is real; its index is a folder of ours."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgebench import tools
from edgebench.convert.base import CONVERTERS
from edgebench.convert.tools import available
from edgebench.errors import InfrastructureError

ROOT = Path(__file__).resolve().parents[2]
BINARY = b"#!/bin/sh\nexit 0\n"


@pytest.fixture(autouse=True)
def _no_chosen_pnnx(monkeypatch):
    monkeypatch.delenv("EDGEBENCH_PNNX", raising=False)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for its whole index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def put_wheel(index, members):
    name = f"pnnx-{tools.PNNX_VERSION}"
    about = f"{name}.dist-info"
    with zipfile.ZipFile(index / f"{name}-py3-none-any.whl", "w") as wheel:
        for member, data in members.items():
            wheel.writestr(member, data)
        wheel.writestr(
            f"{about}/METADATA",
            f"Metadata-Version: 2.1\nName: pnnx\nVersion: {tools.PNNX_VERSION}\nRequires-Dist: torch\n",
        )
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


def test_only_the_binary_is_taken_out_of_the_wheel(index, tmp_path):
    put_wheel(index, {"pnnx/pnnx": BINARY, "pnnx/__init__.py": "import torch", "../escaped": "x"})
    home = tmp_path / "home"
    tool = tools.install_pnnx(home)
    assert tools.find_pnnx(home) == Path(tool.path)
    assert tools.pnnx_version(home) == tools.PNNX_VERSION
    assert tool.sha256 == hashlib.sha256(BINARY).hexdigest()
    assert subprocess.run([tool.path], check=False, timeout=10).returncode == 0
    files = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    folder = f"tools/pnnx-{tools.PNNX_VERSION}"
    assert files == [f"{folder}/pnnx", f"{folder}/tool.json"]
    assert not list(tmp_path.rglob("escaped"))


def test_installing_again_replaces_it(index, tmp_path):
    put_wheel(index, {"pnnx/pnnx": BINARY})
    tool = tools.install_pnnx(tmp_path)
    Path(tool.path).write_bytes(b"damaged by somebody")
    with pytest.raises(InfrastructureError, match="is not the file that was installed"):
        tools.pnnx_version(tmp_path)
    tools.install_pnnx(tmp_path)
    assert tools.pnnx_version(tmp_path) == tools.PNNX_VERSION
    assert Path(tool.path).read_bytes() == BINARY


def test_a_wheel_without_the_binary_leaves_nothing_behind(index, tmp_path):
    put_wheel(index, {"pnnx/__init__.py": ""})
    with pytest.raises(InfrastructureError, match="holds no sound pnnx/pnnx"):
        tools.install_pnnx(tmp_path / "home")
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_a_wheel_that_cannot_be_had_is_an_error_with_pips_words(index, tmp_path):
    with pytest.raises(InfrastructureError, match="pip could not download pnnx==") as caught:
        tools.install_pnnx(tmp_path / "home")
    assert "EDGEBENCH_PNNX" in caught.value.hint
    assert "pnnx" in caught.value.detail
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_a_chosen_pnnx_is_named_by_its_contents(tmp_path, monkeypatch):
    path = tmp_path / "my-pnnx"
    path.write_bytes(BINARY)
    path.chmod(0o755)
    monkeypatch.setenv("EDGEBENCH_PNNX", str(path))
    assert tools.find_pnnx(None) == path
    named = {tools.pnnx_version(None)}
    for other in (BINARY + b"\n", BINARY.replace(b"0", b"1")):
        path.write_bytes(other)
        named.add(tools.pnnx_version(None))
    assert len(named) == 3
    path.write_bytes(BINARY)
    assert tools.pnnx_version(None) in named


def test_runtimes_are_listed_with_what_is_missing(tmp_path):
    by_name = {status.runtime: status for status in available(tmp_path)}
    assert list(by_name) == list(CONVERTERS)
    assert by_name["onnxruntime"].ready
    assert by_name["onnxruntime"].versions["onnxruntime"]
    assert not by_name["ncnn"].ready
    assert by_name["ncnn"].missing == "edgebench runtimes install pnnx"
    assert by_name["ncnn"].precisions == ("fp32", "fp16", "int8", "int8-dynamic")


def test_listing_imports_no_sdk(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edgebench.convert.tools import available\n"
        "available(Path(sys.argv[1]))\n"
        "heavy = {'onnx', 'onnxruntime', 'openvino', 'ncnn', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT, timeout=60)


def test_a_missing_package_says_what_to_install():
    with pytest.raises(InfrastructureError) as caught:
        tools.package_version("edgebench-has-no-such-package", "ncnn")
    assert caught.value.hint == "pip install 'edgebench[ncnn]'"
