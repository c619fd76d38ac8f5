"""Converting in a process of its own: the cache, and tools that hang, crash, lie or eat memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from onnx import helper

from edgebench import model
from edgebench.artifacts import ArtifactStore
from edgebench.convert.run import Limits, Prepared, Wanted, convert
from edgebench.errors import InfrastructureError, ModelError, UserError
from tests.convert import support
from tests.models import generate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where conversions keep their temporary files, so that leftovers can be seen."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def ready(tmp_path):
    return support.prepared("conv_net", tmp_path / "model")


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "store")


def wanted(runtime="ncnn", precision="fp32", **changes):
    told = {"model": "conv_net", "variant": "fp32", "model_digest": "0" * 64}
    return Wanted(runtime=runtime, precision=precision, **(told | changes))


def fake_pnnx(folder, monkeypatch, text):
    """A program in the place of pnnx."""
    path = folder / "fake-pnnx"
    path.write_text(text)
    path.chmod(0o755)
    monkeypatch.setenv("EDGEBENCH_PNNX", str(path))
    return path


def shell(*lines):
    return "\n".join(("#!/bin/sh", *lines, ""))


def is_empty(store, scratch):
    return not list(scratch.iterdir()) and not list(store.root.rglob("*.json"))


def has_ended(pid):
    """Whether a process is gone, waiting a little for the kernel to say so."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


# --- the cache ----------------------------------------------------------------------------------


def test_a_repeated_convert_comes_from_the_store_without_preparing(ready, store, scratch):
    first = convert(wanted("onnxruntime"), lambda: ready, store, limits=support.QUICK)
    again = convert(wanted("onnxruntime"), lambda: pytest.fail("prepared again"), store)
    assert (first.cached, again.cached) == (False, True)
    assert again.artifact == first.artifact
    assert first.artifact.convert_s > 0
    assert first.total_s >= first.tool_s
    assert again.tool_s == 0
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        {"model_digest": "1" * 64},
        {"ingredients": {"shape:image": "1,3,8,8"}},
        {"variant": "pruned-50"},
        {"precision": "fp16"},
    ],
)
def test_whatever_goes_in_differently_is_converted_again(other, ready, store):
    convert(wanted("onnxruntime"), lambda: ready, store, limits=support.QUICK)
    asked = []

    def prepare():
        asked.append(True)
        return ready

    convert(wanted("onnxruntime", **other), prepare, store, limits=support.QUICK)
    assert asked


def test_another_pnnx_is_another_key(ready, store, tmp_path, monkeypatch):
    from edgebench.convert.base import converter
    from edgebench.convert.run import cache_key

    keys = set()
    for text in ("exit 0", "exit 1"):
        fake_pnnx(tmp_path, monkeypatch, shell(text))
        made = converter("ncnn")
        keys.add(cache_key(wanted(), made, made.tool_versions()))
    assert len(keys) == 2


def test_a_cache_hit_imports_no_sdk(ready, store, tmp_path):
    convert(wanted("onnxruntime"), lambda: ready, store, limits=support.QUICK)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edgebench.artifacts import ArtifactStore\n"
        "from edgebench.convert.run import Wanted, convert\n"
        "wanted = Wanted(runtime='onnxruntime', precision='fp32', model='conv_net', variant='fp32',"
        " model_digest='0' * 64)\n"
        "assert convert(wanted, lambda: None, ArtifactStore(Path(sys.argv[1]))).cached\n"
        "heavy = {'onnx', 'onnxruntime', 'openvino', 'ncnn', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=True, cwd=ROOT, timeout=60)


# --- tools that misbehave -----------------------------------------------------------------------


def test_a_tool_that_hangs_is_stopped_with_its_children(ready, store, scratch, tmp_path, monkeypatch):
    pid_file = tmp_path / "pid"
    fake_pnnx(tmp_path, monkeypatch, shell("echo starting", f"sleep 600 & echo $! > {pid_file}", "sleep 600"))
    with pytest.raises(InfrastructureError, match="stopped after 3 s") as caught:
        convert(wanted(), lambda: ready, store, limits=Limits(time_s=3.0))
    assert "EDGEBENCH_CONVERT_TIMEOUT_S" in caught.value.hint
    assert has_ended(int(pid_file.read_text()))
    assert is_empty(store, scratch)


def test_a_converter_in_the_worker_itself_has_the_same_time(ready, store, scratch):
    with pytest.raises(InfrastructureError, match="to openvino fp32 was stopped after"):
        convert(wanted("openvino"), lambda: ready, store, limits=Limits(time_s=0.01))
    assert is_empty(store, scratch)


def test_a_tool_that_prints_without_end_is_stopped(ready, store, scratch, tmp_path, monkeypatch):
    fake_pnnx(tmp_path, monkeypatch, shell("exec yes nonsense"))
    with pytest.raises(InfrastructureError, match="stopped after"):
        convert(wanted(), lambda: ready, store, limits=Limits(time_s=3.0))
    assert is_empty(store, scratch)


BAD_TOOLS = {
    "crashes": (["echo about to fall >&2", "kill -SEGV $$"], r"pnnx crashed \(SIGSEGV\)", "about to fall"),
    "fails": (["echo Conv_7 unsupported", "exit 3"], "ended with status 3.*Conv_7 unsupported", "Conv_7"),
    "writes nothing": (["echo done"], "wrote no m.ncnn.param and no m.ncnn.bin", "done"),
    "writes half": (["echo 7767517 > m.ncnn.param"], "wrote no m.ncnn.bin", ""),
    "writes garbage": (["head -c 3000 /dev/urandom > m.ncnn.param", ": > m.ncnn.bin"], "no ncnn param", ""),
    "writes a broken net": (
        [
            "printf '7767517\\n2 2\\nInput in0 0 1 in0\\nReLU r 1 1 in0 wrong\\n' > m.ncnn.param",
            ": > m.ncnn.bin",
        ],
        "gives no output",
        "",
    ),
    "leaves a foreign layer": (
        [
            "printf '7767517\\n2 2\\nInput in0 0 1 in0\\npnnx.Expression r 1 1 in0 out0\\n' > m.ncnn.param",
            ": > m.ncnn.bin",
        ],
        "no layer for pnnx.Expression",
        "",
    ),
}


def test_the_gate_feeds_what_it_says(store, scratch, tmp_path, monkeypatch):
    """log(x - 0.04) is a number for every value that the gate feeds; for what lies in memory it is none."""
    layers = "Input in0 0 1 in0\\nBinaryOp s 1 1 in0 b 0=1 1=1 2=0.04\\nUnaryOp l 1 1 b out0 0=8\\n"
    lines = [f"printf '7767517\\n3 3\\n{layers}' > m.ncnn.param", ": > m.ncnn.bin"]
    fake_pnnx(tmp_path, monkeypatch, shell(*lines))
    for size in (4, 6, 16, 1000):
        node = helper.make_node("Relu", ["x"], ["y"])
        made = generate.build([node], [generate.tensor("x", [1, size])], [generate.tensor("y", [1, size])])
        path = generate.save(made, tmp_path / "m.onnx")
        ready = Prepared(path, model.inspect(path))
        convert(wanted(model_digest=f"{size:064}"), lambda ready=ready: ready, store, limits=support.QUICK)


@pytest.mark.parametrize("what", BAD_TOOLS)
def test_a_tool_that_breaks_is_an_error_with_its_log(what, ready, store, scratch, tmp_path, monkeypatch):
    lines, message, logged = BAD_TOOLS[what]
    fake_pnnx(tmp_path, monkeypatch, shell(*lines))
    with pytest.raises(ModelError, match=message) as caught:
        convert(wanted(), lambda: ready, store, limits=support.QUICK)
    assert logged in caught.value.detail
    assert caught.value.hint
    assert is_empty(store, scratch)


def test_a_tool_beyond_its_memory_is_told_so(ready, store, scratch, tmp_path, monkeypatch):
    fake_pnnx(tmp_path, monkeypatch, f"#!{sys.executable}\nheld = bytearray(3 << 30)\n")
    with pytest.raises(InfrastructureError, match="memory") as caught:
        convert(wanted(), lambda: ready, store, limits=Limits(time_s=60, memory_bytes=1 << 30))
    assert "MemoryError" in caught.value.detail
    assert is_empty(store, scratch)


@pytest.mark.parametrize("mib", [32, 64])
def test_a_converter_beyond_its_memory_is_told_so(mib, ready, store, scratch):
    with pytest.raises(InfrastructureError, match="MiB of memory") as caught:
        convert(wanted("openvino"), lambda: ready, store, limits=Limits(time_s=60, memory_bytes=mib << 20))
    assert "EDGEBENCH_CONVERT_MEMORY_MIB" in caught.value.hint
    assert is_empty(store, scratch)


def test_a_tool_that_is_no_program_is_named(ready, store, scratch, tmp_path, monkeypatch):
    path = fake_pnnx(tmp_path, monkeypatch, "\x00\x01 not a program")
    with pytest.raises(InfrastructureError, match="pnnx cannot be started"):
        convert(wanted(), lambda: ready, store, limits=support.QUICK)
    path.chmod(0o644)
    with pytest.raises(InfrastructureError, match="which is no program"):
        convert(wanted(), lambda: ready, store, limits=support.QUICK)
    assert is_empty(store, scratch)


def test_a_missing_pnnx_says_what_to_type(ready, store, tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEBENCH_PNNX", raising=False)
    with pytest.raises(InfrastructureError) as caught:
        convert(wanted(), lambda: ready, store, home=tmp_path)
    assert caught.value.hint == "edgebench runtimes install pnnx"


# --- what goes wrong around the tool ------------------------------------------------------------


def test_a_refused_model_is_not_converted(store, scratch, tmp_path, monkeypatch):
    fake_pnnx(tmp_path, monkeypatch, shell("exit 0"))
    control = support.prepared("rank0_input", tmp_path / "model")
    with pytest.raises(ModelError, match="scalar"):
        convert(wanted(), lambda: control, store, limits=support.QUICK)
    assert is_empty(store, scratch)


def test_an_error_or_an_interrupt_while_preparing_ends_the_worker(store, scratch):
    def broken():
        raise UserError("give --shape")

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(UserError):
        convert(wanted("onnxruntime"), broken, store)
    with pytest.raises(KeyboardInterrupt):
        convert(wanted("onnxruntime"), interrupted, store)
    assert is_empty(store, scratch)


def test_a_model_that_onnxruntime_does_not_load_is_refused_in_its_words(store, scratch, tmp_path):
    path = generate.write(tmp_path, "custom_domain")
    ready = support.prepared("conv_net", tmp_path / "model")._replace(path=path)
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot load the model: .*Magic"):
        convert(wanted("onnxruntime"), lambda: ready, store, limits=support.QUICK)
    assert is_empty(store, scratch)


def test_a_temporary_folder_that_cannot_be_used_is_told(ready, store, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(InfrastructureError, match="temporary folder: No such file") as caught:
        convert(wanted("onnxruntime"), lambda: ready, store, limits=support.QUICK)
    assert "TMPDIR" in caught.value.hint


def test_when_edgebench_is_killed_its_tools_end_too(ready, store, tmp_path, monkeypatch):
    pid_file = tmp_path / "pid"
    fake_pnnx(
        tmp_path,
        monkeypatch,
        shell(f"echo $$ > {pid_file}.new", f"mv {pid_file}.new {pid_file}", "sleep 600"),
    )
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edgebench import model\n"
        "from edgebench.artifacts import ArtifactStore\n"
        "from edgebench.convert.run import Prepared, Wanted, convert\n"
        "path = Path(sys.argv[1])\n"
        "wanted = Wanted(runtime='ncnn', precision='fp32', model='n', variant='v', model_digest='0' * 64)\n"
        "convert(wanted, lambda: Prepared(path, model.inspect(path)), ArtifactStore(Path(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", code, str(ready.path), str(store.root)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as edgebench:
        deadline = time.monotonic() + 60
        while not pid_file.exists() and time.monotonic() < deadline and edgebench.poll() is None:
            time.sleep(0.02)
        assert pid_file.exists()
        edgebench.kill()
    assert has_ended(int(pid_file.read_text()))
