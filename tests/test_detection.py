"""Mean average precision: the figure is pycocotools' own, the interval holds, what is no box is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgebench import detection
from edgebench.accuracy import boxes_function, compared
from edgebench.errors import UserError

CLASSES = 3
Boxes = list[np.ndarray]


def _scene(chance: np.random.Generator, pictures: int) -> np.ndarray:
    """Labels [N, 4, 5] of one to four boxes."""
    labels = np.full((pictures, 4, 5), -1.0)
    for each in labels:
        count = chance.integers(1, 5)
        each[:count, 0] = chance.integers(0, CLASSES, count)
        each[:count, 1:3] = chance.uniform(0.2, 0.8, (count, 2))
        each[:count, 3:] = chance.uniform(0.1, 0.3, (count, 2))
    return labels


def _seen(chance: np.random.Generator, labels: np.ndarray, blur: float, missed: float) -> Boxes:
    """What a detector finds: boxes a little off, some missed, some of the wrong class, some invented."""
    found = []
    for each in labels:
        true = each[each[:, 0] >= 0]
        true = true[chance.random(len(true)) > missed]
        boxes = np.insert(true, 1, chance.uniform(0.3, 1.0, len(true)), axis=1)
        boxes[:, 2:] += chance.normal(0, blur, boxes[:, 2:].shape)
        boxes[:, 4:] = boxes[:, 4:].clip(0.02)
        wrong = chance.random(len(boxes)) < 0.1
        boxes[wrong, 0] = (boxes[wrong, 0] + 1) % CLASSES
        invented = np.column_stack(
            [chance.integers(0, CLASSES, 2), chance.uniform(0, 0.6, 2), chance.uniform(0.1, 0.9, (2, 4))]
        )
        found.append(np.concatenate([boxes, invented]))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_figure_is_that_of_pycocotools(seed: int) -> None:
    chance = np.random.default_rng(seed)
    labels = _scene(chance, 30)
    found = _seen(chance, labels, 0.01 * (seed + 1), 0.2)
    judged = detection.evaluation(found, [each[each[:, 0] >= 0] for each in labels])
    judged.accumulate()
    precision = judged.eval["precision"]
    scores = detection.mean_average_precision(found, labels, "m:boxes")
    assert 0.01 < scores.figure < 0.95
    assert scores.figure == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
    assert scores.each is not None
    assert len(scores.each) == 30
    assert scores.each.mean() == pytest.approx(scores.figure)


def test_a_perfect_detector_and_a_blind_one() -> None:
    labels = _scene(np.random.default_rng(1), 12)
    perfect = [np.insert(each[each[:, 0] >= 0], 1, 0.9, axis=1) for each in labels]
    assert detection.mean_average_precision(perfect, labels, "m:f").figure == pytest.approx(1.0)
    assert detection.mean_average_precision([[]] * 12, labels, "m:f").figure == 0.0


def test_the_interval_of_the_figure_and_of_a_difference_holds() -> None:
    """Over many sets of pictures, around what two detectors reach on a large one."""
    chance = np.random.default_rng(0)

    def both(pictures: int) -> tuple[Any, Any]:
        labels = _scene(chance, pictures)
        sharp, dull = _seen(chance, labels, 0.01, 0.1), _seen(chance, labels, 0.02, 0.2)
        return tuple(detection.mean_average_precision(each, labels, "m:f") for each in (sharp, dull))

    sharp, dull = both(1500)
    held = held_drop = 0
    for _ in range(25):
        reference, candidate = both(40)
        found = compared("map", candidate, reference, 40)
        assert None not in (found.low, found.high, found.drop_low, found.drop_high)
        held += found.low <= dull.figure <= found.high  # type: ignore[operator]
        held_drop += found.drop_low <= sharp.figure - dull.figure <= found.drop_high  # type: ignore[operator]
    assert held >= 20  # of 25; of 400 such sets 94 % hold
    assert held_drop >= 20


def test_many_pictures_are_left_out_in_groups() -> None:
    chance = np.random.default_rng(2)
    labels = _scene(chance, 1100)
    scores = detection.mean_average_precision(_seen(chance, labels, 0.02, 0.2), labels, "m:f")
    assert scores.each is not None
    assert len(scores.each) == detection.GROUPS
    found = compared("map", scores, scores, 1100)
    assert (found.drop, found.only_reference) == (0.0, None)


GOOD = np.array([[[0, 0.5, 0.5, 0.2, 0.2]]])
BAD = {
    "labels are [N, boxes, 5]": ([[]], np.zeros((1, 4))),
    "the labels hold no boxes": ([[]], np.full((1, 1, 5), -1.0)),
    "returned 2 entries for 1 samples": ([[], []], GOOD),
    "returned a value of type dict": ({}, GOOD),
    "boxes of the shape [1, 5]": ([[[0, 0.5, 0.5, 0.5, 0.1]]], GOOD),
    "returned no numbers": ([[["a", 1, 1, 1, 1, 1]]], GOOD),
    "NaN or infinity": ([[[0, np.nan, 0.5, 0.5, 0.1, 0.1]]], GOOD),
    "no whole number": ([[[0.5, 0.9, 0.5, 0.5, 0.1, 0.1]]], GOOD),
    "negative size": ([[[0, 0.9, 0.5, 0.5, -0.1, 0.1]]], GOOD),
}


@pytest.mark.parametrize("told", BAD)
def test_what_is_no_box_is_refused(told: str) -> None:
    found, labels = BAD[told]
    with pytest.raises(UserError) as caught:
        detection.mean_average_precision(found, labels, "m:boxes")
    said = f"{caught.value.message} {caught.value.hint}"
    assert told in said


def test_a_metric_of_boxes_names_its_function() -> None:
    assert boxes_function("map:a.b:c") == "a.b:c"
    assert boxes_function("map") is None
    assert boxes_function("maps:metric") is None
    assert boxes_function("top1") is None
