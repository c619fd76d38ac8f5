"""Folders of pictures as samples: what they become, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebench.errors import EdgebenchError, UserError
from edgebench.model import dataset, pictures
from edgebench.records import Tensor
from tests.model.infos import network

Image = pytest.importorskip("PIL.Image", reason="missing tool: Pillow")


def _info(shape: tuple[int | str, ...] = (1, 3, 8, 8)):
    return network(Tensor(name="image", dtype="float32", shape=shape))


def _folder(tmp_path: Path, spec: str = "", classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    folder = tmp_path / "set"
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / pictures.SPEC_FILE).write_text(f"version: 1\n{spec}")
    return folder


def test_pictures_become_samples_and_folders_classes(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "resize: 8\ncrop: 8\nmean: [0.5, 0.4, 0.3]\nstd: [0.2, 0.2, 0.4]\n")
    arrays, labels = pictures.read(folder, _info())
    assert arrays["image"].shape == (6, 3, 8, 8)
    assert arrays["image"].dtype == np.float32
    assert labels is not None
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    with Image.open(folder / "cat" / "0.png") as opened:
        cropped = opened.convert("RGB").resize((10, 8), 2).crop((1, 0, 9, 8))
        wanted = (np.asarray(cropped, np.float32) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.4]
    np.testing.assert_allclose(arrays["image"][0], wanted.transpose(2, 0, 1), atol=1e-5)


def test_layout_colours_and_numbered_folders(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "layout: nhwc\ncolour: bgr\nscale: 1\n", ("7", "12"))
    arrays, labels = pictures.read(folder, _info((1, 8, 8, 3)))
    assert labels is not None
    assert labels.tolist() == [12, 12, 12, 7, 7, 7]
    with Image.open(folder / "12" / "0.png") as opened:
        wanted = np.asarray(opened.convert("RGB").resize((8, 8), 2), np.float32)[..., ::-1]
    np.testing.assert_allclose(arrays["image"][0], wanted, atol=1e-4)
    gray = _folder(tmp_path / "gray", "colour: gray\nclasses: [dog, bird, cat]\n")
    arrays, labels = pictures.read(gray, _info((1, 1, 8, 8)))
    assert arrays["image"].shape == (6, 1, 8, 8)
    assert labels is not None
    assert labels.tolist() == [2, 2, 2, 0, 0, 0]


def test_a_table_of_labels(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    lines = [f"{name}/{number}.png,{number}" for name in ("cat", "dog") for number in range(3)]
    (folder / "labels.csv").write_text("file,label\n" + "\n".join(lines) + "\n")
    made = dataset.read(str(folder), "labels", _info(), classes=True)
    assert (made.n, made.labels.tolist()) == (6, [0, 1, 2, 0, 1, 2])
    (folder / "labels.csv").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(UserError, match=r"no line for cat/0\.png"):
        pictures.read(folder, _info())
    (folder / "labels.csv").write_text("\n".join([*lines, "cat/9.png,1"]) + "\n")
    with pytest.raises(UserError, match=r"names cat/9\.png"):
        pictures.read(folder, _info())
    (folder / "labels.csv").write_text("\n".join([*lines[:-1], "dog/2.png,many"]) + "\n")
    with pytest.raises(UserError, match=r"labels\.csv:6"):
        pictures.read(folder, _info())


BAD = {
    "resize: 8\n": ("becomes 8x10", "crop"),
    "resize: 0\n": ("resize is no size", "224"),
    "crop: [1, 2, 3]\n": ("crop is no size", "224"),
    "mean: [1, 2]\n": ("2 numbers for 3 channels", "channel"),
    "std: 0\n": ("std holds 0", "1"),
    "scale: 1/0\n": ("scale is", "1/255"),
    "scale: much\n": ("scale is", "1/255"),
    "colour: gray\n": ("does not take gray pictures", "colour"),
    "layout: nhwc\n": ("does not take rgb pictures as nhwc", "layout"),
    "input: picture\n": ('no input "picture"', "image"),
    "resise: 8\n": ('unknown key "resise"', "resize"),
    "interpolation: sharp\n": ("expects one of", "bilinear"),
    "classes: [cat]\n": ("dog is none of the classes", "cat"),
}


@pytest.mark.parametrize("spec", BAD)
def test_a_spec_that_does_not_fit_is_told(tmp_path: Path, spec: str) -> None:
    told, hint = BAD[spec]
    with pytest.raises(EdgebenchError) as caught:
        pictures.read(_folder(tmp_path, spec), _info())
    assert told in caught.value.message
    assert hint in caught.value.hint


def test_folders_that_hold_no_set(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "loose.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    with pytest.raises(UserError, match="in no class's folder"):
        pictures.read(folder, _info())
    (folder / "loose.png").unlink()
    (folder / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    with pytest.raises(UserError, match="no picture that can be read"):
        pictures.read(folder, _info())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"preprocess\.yaml"):
        pictures.read(tmp_path / "empty", _info())
    (tmp_path / "empty" / pictures.SPEC_FILE).write_text("version: 1\n")
    with pytest.raises(UserError, match="holds 0 pictures"):
        pictures.read(tmp_path / "empty", _info())


def test_a_folder_without_classes_calibrates_and_does_not_evaluate(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        path.rename(folder / f"{number}.png")
    for name in ("cat", "dog"):
        (folder / name).rmdir()
    arrays, labels = pictures.read(folder, _info())
    assert len(arrays["image"]) == 6
    assert labels is None
    with pytest.raises(UserError, match="tells no classes"):
        dataset.read(str(folder), "labels", _info(), classes=True)
