"""TfIdfVectorizer of integers: how often a sequence has each n-gram of a known pool."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgebench.convert.coreml.base import Array, Node, as_float, cast, elements, mb, reshaped, taken

MAX_COMPARISONS = 1 << 26  # of one window length: they stand side by side in memory


def tf_idf_vectorizer(node: Node) -> Any:
    """The counts of all n-grams, each at its place of the output, weighed as the mode says."""
    x = node.value(0)
    if x.dtype.kind not in "iu" or x.rank not in (1, 2):
        raise node.refused(f"Core ML counts n-grams of integers only, not of {x.dtype}{list(x.shape)}")
    rows, length = (1, *x.shape)[-2:]
    size = max(int(place) for place in node.attribute("ngram_indexes")) + 1
    sequence = reshaped(node.var(0), (rows, length))
    total = None
    for grams, places in _pools(node):
        counts = _counted(node, sequence, grams)
        if counts is None:
            continue
        part = mb.matmul(x=counts, y=np.eye(size, dtype=np.float32)[places])
        total = part if total is None else mb.add(x=total, y=part)
    if total is None:
        return np.zeros((*x.shape[:-1], size), np.float32)
    return reshaped(_weighed(node, total, size), (*x.shape[:-1], size))


def _pools(node: Node) -> list[tuple[Array, Array]]:
    """For each length that is asked: its n-grams [n-grams, length] and their places in the output."""
    if not node.attribute("pool_int64s"):
        raise node.refused("Core ML has no strings")
    pool = np.array(node.attribute("pool_int64s"), np.int64)
    if np.any(pool != pool.astype(np.int32)):
        raise node.refused("Core ML computes with int32, and an n-gram of it has more bits")
    places = [int(place) for place in node.attribute("ngram_indexes")]
    starts = [int(start) for start in node.attribute("ngram_counts")]
    made, first = [], 0
    for length, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), start=1):
        count = max(end - start, 0) // length
        if count and int(node.attribute("min_gram_length")) <= length <= int(
            node.attribute("max_gram_length")
        ):
            grams = pool[start : start + count * length].reshape(count, length)
            made.append(_without_doubles(grams, np.array(places[first : first + count])))
        first += count
    return made


def _without_doubles(grams: Array, places: Array) -> tuple[Array, Array]:
    """Each n-gram once: the last one of several counts."""
    last = {tuple(gram): at for at, gram in enumerate(grams.tolist())}
    kept = sorted(last.values())
    return grams[kept], places[kept]


def _counted(node: Node, sequence: Any, grams: Array) -> Any:
    """[rows, n-grams] as float32: how often each is there, over all distances between its items."""
    rows, length = (int(size) for size in sequence.shape)
    gram = grams.shape[1]
    distances = int(node.attribute("max_skip_count")) + 1 if gram > 1 else 1
    total = None
    for distance in range(1, distances + 1):
        windows = length - distance * (gram - 1)
        if windows < 1:
            break
        if elements((rows, windows, *grams.shape)) > MAX_COMPARISONS:
            raise node.refused(f"{len(grams)} n-grams over {length} items are too many comparisons")
        part = _found(sequence, grams, distance, windows)
        total = part if total is None else mb.add(x=total, y=part)
    return total


def _found(sequence: Any, grams: Array, distance: int, windows: int) -> Any:
    """[rows, n-grams]: in how many windows every item of an n-gram is the one of the sequence."""
    hit = None
    for place, items in enumerate(grams.T):
        at = np.arange(windows) + place * distance
        seen = taken(sequence, at, 1)
        same = mb.equal(x=reshaped(seen, (*seen.shape, 1)), y=items.astype(np.int32)[None, None])
        hit = same if hit is None else mb.logical_and(x=hit, y=same)
    return mb.reduce_sum(x=cast(hit, "fp32"), axes=np.array([1], np.int32), keep_dims=False)


def _weighed(node: Node, counts: Any, size: int) -> Any:
    mode, weights = node.attribute("mode"), node.attribute("weights")
    if mode not in ("TF", "IDF", "TFIDF"):
        raise node.refused(f'there is no mode "{mode}"', "export the network to ONNX again")
    if mode == "IDF":
        counts = as_float(mb.greater(x=counts, y=np.float32(0)))
    if mode == "TF" or not weights:
        return counts
    if len(weights) < size:
        raise node.refused(f"{len(weights)} weights do not fit {size} counts", "correct the weights")
    return mb.mul(x=counts, y=np.array(weights[:size], np.float32)[None])
