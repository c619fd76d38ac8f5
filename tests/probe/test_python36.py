"""The probe keeps to Python 3.6: its syntax, its library, and a real 3.6 where one is installed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.probe.fakes import replay_spec
from tests.probe.harness import SOURCE, Probe, wheel

FILES = sorted(SOURCE.rglob("*.py"))
OURS = {path.stem for path in FILES} | {"base"}
THEIRS = {"numpy", "onnxruntime", "openvino", "ncnn", "coremltools"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_syntax(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 6))
    futures = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    assert futures == []


def test_library() -> None:
    vermin = Path(sys.executable).with_name("vermin")
    if not vermin.exists():
        pytest.skip("missing tool: vermin (pip install vermin)")
    done = subprocess.run(
        [str(vermin), "-t=3.6-", "--no-tips", "--violations", *map(str, FILES)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_only_the_standard_library_is_imported(path: Path) -> None:
    allowed = set(sys.stdlib_module_names) | (THEIRS if path.parent.name == "runtimes" else set())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").split(".")[0] in allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_runtimes_are_imported_inside_functions(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & THEIRS


def real_python36() -> str:
    candidates = [os.environ.get("EDGEBENCH_PYTHON36"), shutil.which("python3.6")]
    candidates += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.6*/bin/python"))]
    for candidate in candidates:
        if candidate and _version(candidate) == "3.6":
            return candidate
    pytest.skip("missing tool: python3.6 (set EDGEBENCH_PYTHON36 to its path)")


def _version(python: str) -> str:
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


@pytest.mark.py36
def test_a_real_python_36_runs_the_probe(open_probe: Callable[..., Probe]) -> None:
    probe = open_probe(python=real_python36())
    assert probe.hello["python"].startswith("3.6.")
    probe.lease()
    assert probe.result("facts")["python"].startswith("3.6.")
    assert probe.result("conditions")
    plain = replay_spec(probe)
    result = probe.result("launch", spec=plain)
    assert result["samples_ns"][:3] == [900, 1000, 1100]
    assert result["memory"]["start_bytes"] is None or result["memory"]["start_bytes"] > 0
    assert probe.result("infer", spec=plain)["samples"][0][0]["shape"] == [1, 3]
    assert probe.error("versions", runtime="openvino")["kind"] == "runtime_missing"
    assert probe.bundle(wheel({"one.py": "x = 1\n"}))
    assert probe.result("clean", keep=[])["freed_bytes"] > 0
    assert probe.end() == 0


@pytest.mark.py36
def test_a_real_python_36_compiles_every_file(tmp_path: Path) -> None:
    python = real_python36()
    script = "import sys\nfor path in sys.argv[1:]:\n    compile(open(path, 'rb').read(), path, 'exec')\n"
    done = subprocess.run(
        [python, "-c", script, *map(str, FILES)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
