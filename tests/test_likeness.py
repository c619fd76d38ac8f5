"""How much alike two networks answer, without labels."""

from __future__ import annotations

import numpy as np
import pytest

from edgebench.likeness import Alike

Array = np.ndarray


def _told(reference: Array, other: Array) -> Alike:
    alike = Alike()
    for one, two in zip(reference, other, strict=True):
        alike.add({"out": one}, {"out": two}, "out")
    return alike


def test_equal_answers_are_equal() -> None:
    answers = np.random.default_rng(0).normal(size=(20, 10))
    found = _told(answers, answers).result()
    assert found is not None
    assert (found.n, found.snr_db.value, found.cosine.value) == (20, 200.0, pytest.approx(1.0))
    assert found.agreement is not None
    assert (found.agreement.value, found.agreement.high) == (1.0, 1.0)
    assert found.agreement.low is not None
    assert 0.8 < found.agreement.low < 0.9


def test_noise_of_a_tenth_is_twenty_decibels_with_its_interval() -> None:
    chance = np.random.default_rng(1)
    reference = chance.normal(size=(200, 1000))
    found = _told(reference, reference + 0.1 * chance.normal(size=reference.shape)).result()
    assert found is not None
    assert found.snr_db.value == pytest.approx(20, abs=0.1)
    assert found.snr_db.low is not None
    assert found.snr_db.high is not None
    assert found.snr_db.low < found.snr_db.value < found.snr_db.high < found.snr_db.low + 0.2
    assert found.cosine.value == pytest.approx(1 / np.sqrt(1.01), abs=1e-3)


def test_the_worst_output_of_a_sample_counts_and_pictures_hold_no_classes() -> None:
    alike = Alike()
    same, off = np.ones((1, 3, 4, 4)), np.ones((1, 3, 4, 4)) * 1.1
    alike.add({"a": same, "b": same}, {"a": same, "b": off}, "a")
    found = alike.result()
    assert found is not None
    assert found.snr_db.value == pytest.approx(20)
    assert (found.snr_db.low, found.agreement) == (None, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_answer_that_is_no_number_is_lost(bad: float) -> None:
    other = np.arange(5.0)
    other[2] = bad
    found = _told(np.arange(5.0)[None], other[None]).result()
    assert found is not None
    assert (found.snr_db.value, found.cosine.value) == (-200.0, 0.0)


def test_zeros_and_nothing() -> None:
    assert Alike().result() is None
    found = _told(np.zeros((1, 4)), np.zeros((1, 4))).result()
    assert found is not None
    assert (found.snr_db.value, found.cosine.value) == (200.0, 1.0)
    lost = _told(np.zeros((1, 4)), np.ones((1, 4))).result()
    assert lost is not None
    assert lost.cosine.value == 0.0
    assert lost.snr_db.value < -199
