"""What the table's networks are fed with is what they are built for, and light networks compute something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgebench import model
from edgebench.fleet.plan import own_precision
from edgebench.records import Tensor
from tests.model.infos import network
from tests.models import feeds
from tests.models.elsewhere import ELSEWHERE
from tests.models.published import PUBLISHED
from tests.models.sources import NETWORKS, source


def test_names_are_unique_and_every_feed_is_known() -> None:
    assert len(set(NETWORKS)) == len(NETWORKS)
    assert {each.feed for each in PUBLISHED.values()} <= {"", *feeds.FEEDS}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("text line", (1, 3, 48, 160)),
        ("text page", (1, 3, 96, 128)),
        ("photo", (1, 3, 64, 64)),
        ("photo, bgr last", (1, 64, 64, 3)),
        ("speech", (1, 576)),
    ],
)
def test_what_is_drawn_or_spoken_varies_with_the_seed_alone(kind: str, shape: tuple[int, ...]) -> None:
    info = network(Tensor(name="x", dtype="float32", shape=shape))
    first, again, other = (feeds.sample(kind, info, seed)["x"] for seed in (1, 1, 2))
    assert first.shape == shape
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.05 * np.abs(first).mean()


def test_writing_is_dark_strokes_on_light_ground() -> None:
    drawn = feeds.writing(48, 160, np.random.default_rng(3))
    assert 0.02 < (drawn < 0.4).mean() < 0.3
    assert (drawn > 0.6).mean() > 0.5


def test_words_end_before_their_padding() -> None:
    ids = Tensor(name="input_ids", dtype="int64", shape=(1, 16))
    mask = Tensor(name="attention_mask", dtype="int64", shape=(1, 16))
    made = feeds.sample("words", network(ids, mask), 5)
    assert made["attention_mask"][0].tolist() == [1] * 12 + [0] * 4
    assert made["input_ids"][0, 11] == feeds.END_OF_TEXT
    assert made["input_ids"][0, :11].min() > 2
    assert not made["input_ids"][0, 12:].any()


def test_a_light_network_tells_pictures_apart(tmp_path: Path) -> None:
    found = source("light-squeezenet", tmp_path)
    info = model.inspect(found.path)
    session = onnxruntime.InferenceSession(str(found.path), providers=["CPUExecutionProvider"])
    first, other = (session.run(None, feeds.sample(found.feed, info, seed))[0] for seed in (1, 2))
    assert first.std() > 0.3 * first.mean()
    assert np.abs(first - other).max() > 0.01 * first.max()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_other_tools_made_is_in_the_precision_it_says(tmp_path: Path, name: str) -> None:
    own = own_precision(model.inspect(source(name, tmp_path).path))
    kind = name.partition("+")[2]
    assert own == {"d": "int8-dynamic", "f": "fp16", "q": "int8"}[kind[0]]
