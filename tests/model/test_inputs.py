"""Inputs: generated ones are plausible and repeat; the user's `.npz` is bounded, errors say what fits."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench import model
from edgebench.errors import UserError
from edgebench.records import Tensor
from tests.model.infos import network
from tests.models import generate


def _tensor(name: str, shape: tuple[int | str, ...], dtype: str = "float32") -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=shape)


IMAGE = network(_tensor("image", (1, 3, 4, 5)))


# --- parse_shape ----------------------------------------------------------------------------------


def test_parse_shape() -> None:
    assert model.parse_shape("image=1,3,224,224") == ("image", (1, 3, 224, 224))
    assert model.parse_shape(" gpu_0/data:0 = 1, 3 ") == ("gpu_0/data:0", (1, 3))
    assert model.parse_shape("a=b=1") == ("a=b", (1,))


@pytest.mark.parametrize(
    "text", ["", "image", "image=", "=1,2", "image=1,,2", "image=1,x", "image=-1,3", "image=0"]
)
def test_parse_shape_refuses(text: str) -> None:
    with pytest.raises(UserError) as caught:
        model.parse_shape(text)
    assert caught.value.hint == "--shape NAME=1,3,224,224"


@given(st.text(max_size=40))
def test_parse_shape_gives_a_shape_or_our_error(text: str) -> None:
    try:
        name, shape = model.parse_shape(text)
    except UserError:
        return
    assert name
    assert all(size >= 1 for size in shape)


# --- generated ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 32, 32, 3), (2, 1, 8, 8), (1, 64, 5, 7), (1, 3, 1, 1)])
def test_pictures_are_smooth_and_use_the_range(shape: tuple[int, ...]) -> None:
    picture = model.random_inputs(network(_tensor("x", shape)), 1)["x"]
    assert picture.shape == shape
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    if max(shape[1:3]) >= 8 and shape[1] != 64:
        assert np.ptp(picture) == pytest.approx(1)
        rows = 1 if shape[3] == 3 else 2
        assert np.abs(np.diff(picture, axis=rows)).mean() < 0.3


def test_other_inputs_are_of_their_kind() -> None:
    info = network(
        _tensor("noise", (1, 1000)),
        _tensor("half", (1, 10), "float16"),
        _tensor("ids", (1, 50), "int64"),
        _tensor("attention_mask", (1, 50), "int64"),
        _tensor("keep", (1, 50), "bool"),
        _tensor("camera", (1, 8, 8, 3), "uint8"),
        _tensor("rate", (), "int64"),
    )
    made = model.random_inputs(info, 5)
    assert abs(made["noise"].mean()) < 0.2
    assert 0.8 < made["noise"].std() < 1.2
    assert {name: str(array.dtype) for name, array in made.items()} == {t.name: t.dtype for t in info.inputs}
    assert {name: array.shape for name, array in made.items()} == {t.name: t.shape for t in info.inputs}
    assert 0 <= made["ids"].min() <= made["ids"].max() <= 9
    assert set(made["attention_mask"].flat) == {1}
    assert set(made["keep"].flat) == {True, False}
    assert made["camera"].max() == 255


def test_inputs_repeat_with_their_seed() -> None:
    first, again, other = (model.random_inputs(IMAGE, seed)["image"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unknown_sizes_and_absurd_ones_are_refused() -> None:
    with pytest.raises(UserError, match="not static") as caught:
        model.random_inputs(network(_tensor("x", ("N", 3, "H", "W"))), 0)
    assert caught.value.hint == "--shape x=1,3,1,1"
    with pytest.raises(UserError, match="elements"):
        model.random_inputs(network(_tensor("x", (1 << 20, 1 << 20))), 0)


# --- the user's file ------------------------------------------------------------------------------


def _save(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "inputs.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (6, 3, 4, 5), (6, 1, 3, 4, 5)])
def test_one_or_many_samples_are_cut_apart(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    feeds = list(model.batches(model.read_inputs(_save(tmp_path, image=image, labels=[1, 2]), IMAGE), IMAGE))
    assert len(feeds) == shape[0]
    assert all(feed["image"].shape == (1, 3, 4, 5) for feed in feeds)
    np.testing.assert_array_equal(np.concatenate([feed["image"] for feed in feeds]).ravel(), image.ravel())


def test_one_sample_is_shared_by_many(tmp_path: Path) -> None:
    info = network(_tensor("x", (1, 2)), _tensor("rate", (), "int64"))
    feeds = list(
        model.batches(model.read_inputs(_save(tmp_path, x=np.zeros((3, 2)), rate=16000), info), info)
    )
    assert [int(feed["rate"]) for feed in feeds] == [16000] * 3
    assert feeds[0]["x"].dtype == np.float32


def test_a_symbolic_batch_takes_any_number(tmp_path: Path) -> None:
    info = network(_tensor("x", ("N", 2)))
    feeds = list(
        model.batches(model.read_inputs(_save(tmp_path, x=np.zeros((5, 2), np.float32)), info), info)
    )
    assert [feed["x"].shape for feed in feeds] == [(1, 2)] * 5


def test_integers_may_stand_for_floats(tmp_path: Path) -> None:
    read = model.read_inputs(_save(tmp_path, image=np.ones((1, 3, 4, 5), np.uint8)), IMAGE)
    assert read["image"].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"picture": np.zeros((1, 3, 4, 5))}, '"picture", which are no inputs'),
        ({"labels": np.zeros(3)}, 'no array "image"'),
        ({"image": np.zeros((1, 3, 5, 5))}, r"has the shape \[1, 3, 5, 5\], the model wants \[1, 3, 4, 5\]"),
        ({"image": np.zeros((0, 3, 4, 5))}, "has the shape"),
        ({"image": np.zeros(())}, "has the shape"),
        ({"image": np.full((1, 3, 4, 5), np.nan)}, "NaN"),
        ({"image": np.full((1, 3, 4, 5), np.inf)}, "infinity"),
        ({"image": np.zeros((1, 3, 4, 5), np.complex64)}, "the model wants float32"),
        ({"image": np.array(["text"])}, "the model wants float32"),
    ],
)
def test_a_file_that_does_not_fit_says_what_was_expected(
    tmp_path: Path, arrays: dict[str, np.ndarray], told: str
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        model.read_inputs(_save(tmp_path, **arrays), IMAGE)
    assert caught.value.hint


def test_floats_do_not_become_integers(tmp_path: Path) -> None:
    info = network(_tensor("ids", (1, 2), "int64"))
    with pytest.raises(UserError, match="wants int64"):
        model.read_inputs(_save(tmp_path, ids=np.array([[1.0, 2.0]])), info)
    small = network(_tensor("ids", (1, 2), "int8"))
    with pytest.raises(UserError, match="do not fit int8"):
        model.read_inputs(_save(tmp_path, ids=np.array([[1, 300]])), small)


def test_different_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    info = network(_tensor("a", (1, 2)), _tensor("b", (1, 2)))
    with pytest.raises(UserError, match="different numbers of samples"):
        model.read_inputs(_save(tmp_path, a=np.zeros((3, 2)), b=np.zeros((4, 2))), info)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = _save(tmp_path, image=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="Python objects"):
        model.read_inputs(path, IMAGE)
    stream = io.BytesIO()
    pickle.dump([1], stream)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", stream.getvalue())
    with pytest.raises(UserError, match="not a readable array"):
        model.read_inputs(path, IMAGE)


def test_a_header_that_lies_about_its_size_allocates_nothing(tmp_path: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    path = tmp_path / "inputs.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", content)
    with pytest.raises(UserError, match="larger than it is"):
        model.read_inputs(path, IMAGE)


def test_a_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("image.npy", "w") as stream,
    ):
        for _ in range(65):
            stream.write(b"\0" * (16 << 20))
    assert path.stat().st_size < 10_000_000
    with pytest.raises(UserError, match="at most"):
        model.read_inputs(path, IMAGE)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_npz_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "inputs.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        model.read_inputs(path, IMAGE)
    with pytest.raises(UserError, match="no file"):
        model.read_inputs(tmp_path / "none.npz", IMAGE)


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_give_inputs_or_our_error(tmp_path: Path, data: st.DataObject) -> None:
    path = _save(tmp_path, image=np.ones((2, 3, 4, 5), np.float32))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        read = model.read_inputs(path, IMAGE)
    except UserError:
        return
    assert read["image"].shape[1:] == (3, 4, 5)


def test_the_demo_files_fit_the_demo_network() -> None:
    from importlib.resources import files

    demo = Path(str(files("edgebench"))) / "demo"
    info = model.inspect(demo / "digits.onnx")
    for name, count in (("digits-test.npz", 500), ("digits-calibration.npz", 297)):
        assert len(list(model.batches(model.read_inputs(demo / name, info), info))) == count


def test_generated_inputs_run_every_generated_network(tmp_path: Path) -> None:
    from tests.model.running import run

    for name in ("conv_net", "two_inputs", "rank0_input", "bool_net", "lstm_net", "conv_net_fp16"):
        path = generate.write(tmp_path, name)
        outputs = run(path, model.random_inputs(model.inspect(path), 0))
        assert all(np.isfinite(values).all() for values in outputs.values())


def test_samples_of_a_scalar_input_stay_arrays(tmp_path: Path) -> None:
    """ONNX Runtime takes no numpy scalar, as indexing gives one: silero's sample rate has no axes."""
    path = generate.write(tmp_path, "rank0_input")
    info = model.inspect(path)
    arrays = {"x": np.zeros((3, 1, 4), np.float32), "rate": np.array([1, 2, 3])}
    rates = [sample["rate"] for sample in model.batches(arrays, info)]
    assert [type(rate) for rate in rates] == [np.ndarray] * 3
    assert [int(rate) for rate in rates] == [1, 2, 3]
