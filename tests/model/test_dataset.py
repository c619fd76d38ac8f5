"""Labelled data sets: whatever does not fit the model is named; every sample is fed once, padding apart."""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.model import dataset
from edgebench.records import ModelInfo, Tensor
from tests.model.infos import network


def tensor(name: str, *shape: int, dtype: str = "float32") -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=shape)


def pictures(batch: int = 1) -> ModelInfo:
    return network(tensor("x", batch, 2, 3))


def read(path: Path, net: ModelInfo, *, key: str = "labels", classes: bool = True) -> dataset.Dataset:
    return dataset.read(str(path), key, net, classes=classes)


def read_or_refused(path: Path, net: ModelInfo) -> dataset.Dataset | None:
    """The data set, or None where it is refused with a hint; any other error is the test's failure."""
    try:
        return read(path, net)
    except UserError as error:
        if not error.hint:
            raise
    return None


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "set.npz"
    np.savez(path, **arrays)
    return path


X = np.arange(42, dtype=np.float32).reshape(7, 2, 3)
Y = np.arange(7)


@given(n=st.integers(1, 40), batch=st.integers(1, 9))
@settings(deadline=None)
def test_every_sample_is_fed_once_and_the_rest_is_padding(
    n: int, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    samples = np.random.default_rng(n).normal(size=(n, 2, 3)).astype(np.float32)
    path = saved(tmp_path_factory.mktemp("set"), x=samples, labels=np.zeros(n, np.int64))
    net = pictures(batch)
    found = read(path, net)
    fed = [feed["x"] for feed in dataset.feeds(found, net, 0, found.feeds)]
    assert {each.shape for each in fed} == {(batch, 2, 3)}
    whole = np.concatenate(fed)
    assert np.array_equal(whole[:n], samples)
    assert found.feeds == math.ceil(n / batch)
    assert all(np.array_equal(each, samples[-1]) for each in whole[n:])
    parts = [
        feed["x"]
        for start in range(0, found.feeds, 3)
        for feed in dataset.feeds(found, net, start, start + 3)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


def test_inputs_without_a_batch_axis_and_those_that_are_always_the_same(tmp_path: Path) -> None:
    net = network(tensor("x", 2, 3), tensor("rate", dtype="int64"), tensor("t"))
    path = saved(tmp_path, x=X, rate=np.int64(16000), t=Y.astype(np.float32), labels=Y)
    found = read(path, net)
    feeds = list(dataset.feeds(found, net, 0, 99))
    assert len(feeds) == 7
    assert np.array_equal(feeds[3]["x"], X[3])
    assert (feeds[3]["rate"], feeds[3]["t"]) == (16000, 3.0)
    assert feeds[3]["t"].shape == ()


def test_the_digest_names_inputs_and_labels(tmp_path: Path) -> None:
    one = read(saved(tmp_path, x=X, labels=Y), pictures())
    same = read(saved(tmp_path, labels=Y.astype(np.uint8), x=X), pictures())
    assert same.digest == one.digest  # labels count as numbers of classes, of whatever type
    for changed in ({"x": X + 1, "labels": Y}, {"x": X, "labels": Y[::-1]}):
        assert read(saved(tmp_path, **changed), pictures()).digest != one.digest


class Evil:
    """What a pickle would run."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, 'no array "labels"'),
        ({"labels": Y}, 'no array "x"'),
        ({"x": X, "labels": Y, "z": X}, '"z", which are no inputs'),
        ({"x": X, "labels": Y[:6]}, "6 labels, and 7 samples"),
        ({"x": X[:, :1], "labels": Y}, "shape [7, 1, 3]; for 7 samples the model wants [7, 2, 3]"),
        ({"x": X.astype(np.complex64), "labels": Y}, "complex64"),
        ({"x": X.astype(str), "labels": Y}, "<U"),
        ({"x": np.where(X == 3, np.nan, X), "labels": Y}, "NaN"),
        ({"x": X, "labels": Y.astype(float)}, "float64 [7]; top1 wants"),
        ({"x": X, "labels": np.eye(7, dtype=np.int64)}, "[7, 7]; top1 wants"),
        ({"x": X, "labels": Y - 1}, "a label is -1"),
        ({"x": X, "labels": Y + (1 << 40)}, "a label is 1099511627776"),
        ({"x": X[:0], "labels": Y[:0]}, "no labels"),
        ({"x": X, "labels": np.int64(3)}, "no labels"),
        ({"x": X, "labels": np.array(["a"] * 7)}, "<U1"),
        ({"x": np.array([Evil()] * 7), "labels": Y}, "Python objects"),
        ({"x": X, "labels": np.array([Evil()] * 7)}, "Python objects"),
        ({"x": X[0], "labels": Y}, "shape [2, 3]"),
        ({"x": X[:1], "labels": Y}, "no input has samples"),
    ],
)
def test_what_does_not_fit_is_named(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(saved(tmp_path, **arrays), pictures())
    assert said in caught.value.message
    assert caught.value.hint


def test_inputs_of_different_batches_are_named(tmp_path: Path) -> None:
    net = network(tensor("x", 4, 2, 3), tensor("y", 2, 1))
    path = saved(
        tmp_path, x=np.zeros((8, 2, 3), np.float32), y=np.zeros((8, 1), np.float32), labels=np.arange(8)
    )
    with pytest.raises(UserError, match="take 2 and 4 samples"):
        read(path, net)


def test_labels_may_have_another_name_and_be_anything_for_a_metric_of_ones_own(tmp_path: Path) -> None:
    boxes = np.random.default_rng(1).uniform(size=(7, 4))
    path = saved(tmp_path, x=X, boxes=boxes)
    assert np.array_equal(read(path, pictures(), key="boxes", classes=False).labels, boxes)
    with pytest.raises(UserError, match="is an input of the model"):
        read(path, pictures(), key="x")
    with pytest.raises(UserError, match="NaN or infinity"):
        read(saved(tmp_path, x=X, labels=boxes * np.inf), pictures(), classes=False)


def test_a_missing_file_and_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no file"):
        read(tmp_path / "none.npz", pictures())
    path = saved(tmp_path, x=X, labels=Y)
    monkeypatch.setattr(dataset, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="at most"):
        read(path, pictures())


@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 10_000))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_damaged_files_are_refused_or_still_fit(place: int, value: int, cut: int, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=X, labels=Y)
    data = bytearray(buffer.getvalue())
    data[place % len(data)] = value
    path = tmp_path / "damaged.npz"
    path.write_bytes(bytes(data[: len(data) - cut % len(data)] if cut % 3 == 0 else data))
    found = read_or_refused(path, pictures())
    assert found is None or found.n == 7


@given(
    shape=st.lists(st.integers(0, 8), max_size=4),
    dtype=st.sampled_from(["float32", "float64", "int8", "int64", "uint64", "bool", "float16", "S3"]),
    labels=st.lists(st.integers(-3, 20), max_size=8),
    batch=st.integers(1, 4),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_arrays_are_a_data_set_or_the_users_mistake(
    shape: list[int], dtype: str, labels: list[int], batch: int, tmp_path: Path
) -> None:
    path = saved(tmp_path, x=np.zeros(shape, dtype), labels=np.array(labels, np.int64))
    net = pictures(batch)
    found = read_or_refused(path, net)
    if found is not None:
        assert found.n == len(labels) == shape[0]
        assert len(list(dataset.feeds(found, net, 0, found.feeds))) == found.feeds


# --- functions ------------------------------------------------------------------------------------


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """The name of a function in a module of its own in the working directory."""
    module = f"labelled_{abs(hash((str(folder), body))):x}"
    (folder / f"{module}.py").write_text(f"import numpy as np\n\n\ndef made():\n{body}")
    monkeypatch.chdir(folder)
    return f"{module}:made"


GOOD = "    print('loading')\n    return {'x': np.ones((5, 2, 3), np.float32)}, [0, 1, 2, 3, 4]\n"


def test_a_function_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = written(tmp_path, monkeypatch, GOOD)
    found = dataset.read(name, "labels", pictures(2), classes=True)
    assert (found.n, found.feeds, found.labels.tolist()) == (5, 3, [0, 1, 2, 3, 4])
    out, err = capsys.readouterr()
    assert (out, err) == ("", "loading\n")  # stdout is for results


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    return 3\n", "returned a int"),
        ("    return {'x': np.ones((2, 2, 3))}\n", "returned a dict"),
        ("    return {'q': np.ones(2)}, [1, 2]\n", 'returned "q"'),
        ("    return {'x': object()}, [1]\n", "which are no numbers"),
        ("    return {'x': np.ones((1, 2, 3), np.float32)}, None\n", "which are no numbers"),
        ("    return {'x': [[1], [2, 3]]}, [1]\n", "is no array"),
        ("    raise ValueError('no pictures')\n", ".py:5 in made: ValueError: no pictures"),
        ("    return np.zeros(3)[[9]]\n", ".py:5 in made: IndexError"),
        ("    raise SystemExit(3)\n", ".py:5 in made: SystemExit: 3"),
        ("    return )\n", ".py:5: SyntaxError"),
        ("    import nothing_of_the_kind\n", "in made: ModuleNotFoundError"),
    ],
)
def test_what_goes_wrong_in_it_is_the_users(
    body: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = written(tmp_path, monkeypatch, body)
    with pytest.raises(UserError) as caught:
        dataset.read(name, "labels", pictures(), classes=True)
    assert said in caught.value.message
    assert "Traceback" not in caught.value.message
    assert caught.value.hint


def test_names_of_functions_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = written(tmp_path, monkeypatch, GOOD)
    with pytest.raises(UserError) as caught:
        dataset.read(name.replace(":made", ":mode"), "labels", pictures(), classes=True)
    assert 'did you mean "made"' in caught.value.hint
    with pytest.raises(UserError, match="there is no module nowhere"):
        dataset.read("nowhere:made", "labels", pictures(), classes=True)


def test_pickles_are_never_run(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        read(path, pictures())
