"""Files that are no networks are refused with the reason; nothing outside the model's folder is read."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench import model
from edgebench.errors import ModelError, UserError
from tests.models import generate


def _bytes(name: str = "conv_net") -> bytes:
    return bytes(generate.GENERATED[name]().SerializeToString(deterministic=True))


# --- paths ----------------------------------------------------------------------------------------


def test_a_missing_file_is_the_users(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        model.inspect(tmp_path / "nothing.onnx")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        model.inspect(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(UserError, match="not a regular file"):
        model.inspect(tmp_path / "pipe.onnx")


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="0 bytes"):
        model.inspect(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"hello, I am a text file that somebody named wrongly", "not an ONNX file"),
        (b"\x00" * 100, "not an ONNX file"),
        (b"\xff" * 100, "not an ONNX file"),
        (b"PK\x03\x04 and so on", "zip file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b'{"a": 1}', "JSON"),
        (b"\x1c\x00\x00\x00TFL3\x14\x00", "TensorFlow Lite"),
        (b"7767517\n3 3\n", "NCNN"),
    ],
)
def test_what_is_not_onnx_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=told) as caught:
        model.inspect(tmp_path / "m.onnx")
    assert caught.value.hint


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_says_so(tmp_path: Path, share: float) -> None:
    whole = _bytes()
    (tmp_path / "m.onnx").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match="truncated"):
        model.inspect(tmp_path / "m.onnx")


def test_a_file_beyond_two_gibibytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # sparse: takes no room
    with pytest.raises(ModelError, match="bytes; edgebench takes"):
        model.inspect(path)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_give_our_errors_or_a_model(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["conv_net", "conv_net_qdq", "if_net", "two_inputs", "lstm_net"]))
    content = bytearray(_bytes(name))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
        if kind == "flip":
            content[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[place : place + data.draw(st.integers(1, 20))]
        elif kind == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            content[place:place] = content[place : place + data.draw(st.integers(1, 40))]
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    path.write_bytes(bytes(content))
    out.unlink(missing_ok=True)
    with suppress(ModelError, UserError):
        model.inspect(path)
        model.prepare(path, shapes={}, out=out)
    assert {each.name for each in tmp_path.iterdir()} <= {"m.onnx", "out.onnx"}


@given(content=st.binary(max_size=300))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_never_a_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError):
        model.inspect(tmp_path / "m.onnx")


# --- digest ---------------------------------------------------------------------------------------


def test_the_digest_of_one_file_is_its_sha256(tmp_path: Path) -> None:
    path = generate.write(tmp_path, "conv_net")
    assert model.digest(path) == hashlib.sha256(path.read_bytes()).hexdigest() == model.inspect(path).digest


def test_external_data_is_part_of_the_digest(tmp_path: Path) -> None:
    path = generate.write_external(tmp_path)
    before = model.digest(path)
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(bytes(weights))
    assert model.digest(path) != before


def test_the_digest_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    path = generate.write_external(tmp_path)
    other = tmp_path / "elsewhere"
    other.mkdir()
    for file in (path, tmp_path / "weights.bin"):
        shutil.copy(file, other)
    assert model.digest(path) == model.digest(other / path.name)


# --- external data --------------------------------------------------------------------------------


def _point_at(tmp_path: Path, location: str, **extra: str) -> Path:
    path = generate.write_external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    for weight in proto.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = location
            elif entry.key in extra:
                entry.value = extra[entry.key]
    return generate.save(proto, path)


def test_external_data_is_read_in(tmp_path: Path) -> None:
    path = generate.write_external(tmp_path)
    info = model.inspect(path)
    assert info.parameters == generate.CONV_NET_PARAMETERS
    assert info.size_bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert len(onnx.load_from_string(model.load(path).SerializeToString()).graph.initializer) == 8


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = generate.write_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r'"weights.bin", which is missing'):
        model.inspect(path)


@pytest.mark.parametrize(
    "location",
    ["/etc/hostname", "../secret.bin", "a/../../secret.bin", "C:\\secret.bin", "..\\secret.bin", "\\x"],
)
def test_external_data_outside_the_folder_is_never_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 10_000)
    path = _point_at(folder, location)
    for ask in (model.inspect, model.digest, model.load):
        with pytest.raises(ModelError, match="outside the model's folder"):
            ask(path)


def test_a_link_out_of_the_folder_is_never_followed(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = generate.write_external(folder)
    shutil.move(folder / "weights.bin", tmp_path / "secret.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="a link that leads outside"):
        model.inspect(path)


def test_a_linked_folder_out_of_the_folder_is_never_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "inner", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    path = _point_at(folder, "sub/weights.bin")
    shutil.move(folder / "weights.bin", outside / "weights.bin")
    (folder / "sub").symlink_to(outside)
    with pytest.raises(ModelError, match="a link that leads outside"):
        model.inspect(path)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"offset": "999999"}, "truncated"),
        ({"length": "999999999"}, "truncated"),
        ({"offset": "-5"}, "truncated"),
        ({"offset": "many"}, "damaged reference"),
        ({"length": "8"}, "needs"),
    ],
)
def test_external_data_that_is_not_there_is_refused(tmp_path: Path, extra: dict[str, str], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        model.inspect(_point_at(tmp_path, "weights.bin", **extra))


@pytest.mark.parametrize("location", ["", ".", "a\0b"])
def test_external_data_in_no_file_is_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(ModelError):
        model.inspect(_point_at(tmp_path, location))
