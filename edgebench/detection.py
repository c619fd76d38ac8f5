"""Boxes that a detector found and boxes that are there -> mean average precision, as COCO counts it.

pycocotools (an extra, imported on first use) matches the boxes and says what precision is; the mean over its
overlaps 0.50 to 0.95 and over the classes is the figure. One figure for all pictures has no interval of its
own, so each picture's share in it is found by leaving the picture out (jackknife, Tukey 1958): the figure and
the difference of two detectors on the same pictures then have Student's intervals. Of more than 500 pictures
that many groups are left out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench.accuracy import Scores
from edgebench.errors import InfrastructureError, UserError

Array = NDArray[Any]
Floats = NDArray[np.float64]

MOST_BOXES = 100  # of a picture and a class, the surest first; COCO's limit
GROUPS = 500
FOUND, TRUE = 6, 5  # columns
EXTRA = "pip install 'edgebench[detect]'"
SHAPE = (
    "a list with an array [boxes, 6] for each sample: class, score, middle x, middle y, width, height; "
    "labels are [N, boxes, 5]: class (-1: no box), middle x, middle y, width, height"
)


class _Class(NamedTuple):
    """One class: its boxes that were found, the surest first, and those that are there.

    `right` [overlaps, boxes]: whether a box matches one that is there; `picture` the group of each box;
    `there` how many boxes each group has.
    """

    right: NDArray[np.bool_]
    picture: NDArray[np.int64]
    there: NDArray[np.int64]


def mean_average_precision(found: object, labels: Array, source: str) -> Scores:
    """The figure, and each picture's (or group's) share in it; `source` is who found the boxes.

    UserError for boxes or labels that are none, and where no picture has a box.
    """
    true = _labels(labels)
    boxes = _found(found, len(true), source)
    classes = list(_matched(boxes, true))
    if not classes:
        raise UserError("the labels hold no boxes", hint=SHAPE)
    groups = min(len(true), GROUPS)
    whole = _mean(classes, None)
    without = np.array([_mean(classes, group) for group in range(groups)])
    return Scores(whole, whole + (groups - 1) * (without.mean() - without), of_one_figure=True)


# --- what was given -------------------------------------------------------------------------------


def _labels(labels: Array) -> list[Floats]:
    """The boxes of each picture [boxes, 5]."""
    values = np.asarray(labels, np.float64)
    if values.ndim != 3 or values.shape[2] != TRUE:
        raise UserError(f"labels of boxes are {list(values.shape)}, not [N, boxes, {TRUE}]", hint=SHAPE)
    made = [each[each[:, 0] >= 0] for each in values]
    for each in made:
        _refuse_odd(each, each[:, 3:], "labels")
    return made


def _found(found: object, n: int, source: str) -> list[Floats]:
    """The boxes that were found in each picture [boxes, 6]."""
    if not isinstance(found, list | tuple | np.ndarray):
        raise UserError(f"{source} returned a value of type {type(found).__name__}", hint=SHAPE)
    if len(found) != n:
        raise UserError(f"{source} returned {len(found)} entries for {n} samples", hint=SHAPE)
    made = []
    for each in found:
        try:
            values = np.asarray(each, np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"{source} returned no numbers: {str(error)[:200]}", hint=SHAPE) from error
        values = values.reshape(0, FOUND) if values.size == 0 else values
        if values.ndim != 2 or values.shape[1] != FOUND:
            raise UserError(f"{source} returned boxes of the shape {list(values.shape)}", hint=SHAPE)
        values = values[values[:, 0] >= 0]
        _refuse_odd(values, values[:, 4:], source)
        made.append(values)
    return made


def _refuse_odd(boxes: Floats, sizes: Floats, source: str) -> None:
    if not np.isfinite(boxes).all():
        raise UserError(f"{source}: a box has NaN or infinity", hint=SHAPE)
    if (boxes[:, 0] != np.round(boxes[:, 0])).any() or (boxes[:, 0] >= 1 << 31).any():
        raise UserError(f"{source}: a class is no whole number", hint=SHAPE)
    if (sizes < 0).any():
        raise UserError(f"{source}: a box has a negative size", hint=SHAPE)


# --- matching, by pycocotools ---------------------------------------------------------------------


def _matched(found: Sequence[Floats], true: Sequence[Floats]) -> Iterator[_Class]:
    """Each class that is there, with what pycocotools matched."""
    evaluated = evaluation(found, true)
    groups = np.arange(len(true)) * min(len(true), GROUPS) // max(1, len(true))
    images = len(true)
    for place in range(len(evaluated.params.catIds)):
        parts = evaluated.evalImgs[place * images : (place + 1) * images]
        there = np.zeros(min(images, GROUPS), np.int64)
        scores: list[Floats] = [np.empty(0)]
        right: list[Array] = [np.empty((len(evaluated.params.iouThrs), 0), bool)]
        owner: list[Array] = [np.empty(0, np.int64)]
        for picture, part in enumerate(parts):
            if part is None:
                continue
            there[groups[picture]] += len(part["gtIds"])
            scores.append(np.asarray(part["dtScores"], np.float64))
            right.append(np.asarray(part["dtMatches"]).reshape(right[0].shape[0], -1) > 0)
            owner.append(np.full(len(part["dtScores"]), groups[picture]))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        yield _Class(np.concatenate(right, axis=1)[:, order], np.concatenate(owner)[order], there)


def evaluation(found: Sequence[Floats], true: Sequence[Floats]) -> Any:
    """The boxes as pycocotools matched them, not summed up: of all sizes, of the classes that are there."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise InfrastructureError("mean average precision needs pycocotools", hint=EXTRA) from error
    classes = sorted({int(each) for boxes in true for each in boxes[:, 0]})
    images = [{"id": place} for place in range(len(true))]
    categories = [{"id": each} for each in classes]

    def indexed(boxes: Sequence[Floats], scored: bool) -> Any:
        made = COCO()
        annotations = list(_annotations(boxes, scored=scored))
        made.dataset = {"images": images, "categories": categories, "annotations": annotations}
        made.createIndex()
        return made

    with redirect_stdout(io.StringIO()):  # it tells its progress
        judged = COCOeval(indexed(true, False), indexed(found, True), "bbox")
        judged.params.areaRng, judged.params.areaRngLbl = judged.params.areaRng[:1], ["all"]
        judged.params.maxDets = [MOST_BOXES]
        judged.evaluate()
    return judged


def _annotations(boxes: Sequence[Floats], *, scored: bool) -> Iterator[dict[str, Any]]:
    """Boxes by left, top, width, height; ids count from 1, since 0 means "matches nothing"."""
    number = 0
    for picture, rows in enumerate(boxes):
        for row in rows:
            number += 1
            x, y, width, height = (float(each) for each in row[-4:])
            made = {
                "id": number,
                "image_id": picture,
                "category_id": int(row[0]),
                "bbox": [x - width / 2, y - height / 2, width, height],
                "area": width * height,
                "iscrowd": 0,
            }
            yield made | ({"score": float(row[1])} if scored else {})


# --- summing up -----------------------------------------------------------------------------------


def _mean(classes: Sequence[_Class], left_out: int | None) -> float:
    """The mean over the classes that are there, without the pictures of one group."""
    known = [each for each in (_precision(one, left_out) for one in classes) if each is not None]
    return float(np.mean(known)) if known else 0.0


def _precision(one: _Class, left_out: int | None) -> float | None:
    """The mean of the highest precision at each of 101 recalls and each overlap; None where none is there."""
    there, right = int(one.there.sum()), one.right
    if left_out is not None:
        there -= int(one.there[left_out])
        right = right[:, one.picture != left_out]
    if not there:
        return None
    hits = np.cumsum(right, axis=1, dtype=np.float64)
    precision = hits / (np.arange(right.shape[1]) + 1 + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for overlap in range(len(right)):
        places = np.searchsorted(hits[overlap] / there, np.linspace(0.0, 1.0, 101), side="left")
        total += float(best[overlap, places[places < right.shape[1]]].sum()) / 101
    return total / len(right)
