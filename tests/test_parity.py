"""Parity: hand-computed numbers, the rules for weak and damaged outputs, and what must never pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgebench import parity
from edgebench.errors import BugError, ModelError, UserError
from edgebench.records import ParityReport, decode, encode

FP32 = parity.BOUNDS["fp32"]
INT8 = parity.BOUNDS["int8"]


def judge(reference, candidate, bound=FP32):
    return parity.judge(reference, candidate, bound, where="controller", reference_name="onnxruntime")


def one(reference, candidate, bound=FP32):
    (output,) = parity.compare({"y": np.asarray(reference)}, {"y": np.asarray(candidate)}, bound)
    return output


# --- the numbers --------------------------------------------------------------------------------


def test_numbers_are_those_computed_by_hand():
    output = one([3.0, -4.0, 0.001], [3.3, -4.0, 0.0])
    assert output.max_abs == pytest.approx(0.3)
    assert output.max_rel == pytest.approx(0.1)  # 0.001 lies below a thousandth of the range, 4
    assert output.snr_db == pytest.approx(10 * math.log10((9 + 16 + 1e-6) / (0.09 + 1e-6)))
    length = math.sqrt(25 + 1e-6) * math.sqrt(3.3**2 + 16)
    assert output.cosine == pytest.approx((9.9 + 16) / length)
    assert output.reference_range == 4.0
    assert not output.passed


def test_identical_outputs_have_the_capped_snr_and_pass():
    output = one([1.0, 2.0], [1.0, 2.0])
    assert (output.snr_db, output.cosine, output.max_abs, output.max_rel) == (200.0, 1.0, 0.0, 0.0)
    assert output.passed
    assert output.reason == ""


def test_batches_are_judged_together():
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((6, 5)).astype(np.float32)
    changed = whole + rng.standard_normal((6, 5)).astype(np.float32) * 1e-3
    parts = [{"y": whole[:2]}, {"y": whole[2:]}]
    candidates = [{"y": changed[:2]}, {"y": changed[2:]}]
    (split,) = parity.compare(parts, candidates, INT8)
    together = one(whole, changed, INT8)
    assert split.max_abs == together.max_abs
    assert split.snr_db == pytest.approx(together.snr_db)
    assert split.cosine == pytest.approx(together.cosine)
    assert split.max_rel == pytest.approx(together.max_rel)


def test_arrays_larger_than_a_chunk_are_seen_to_their_end():
    reference = np.linspace(-1, 1, parity.CHUNK + 10, dtype=np.float32)
    candidate = reference.copy()
    candidate[-1] = 0.5
    output = one(reference, candidate)
    assert output.max_abs == pytest.approx(0.5)
    assert not output.passed


floats = st.floats(-1e6, 1e6, width=32)


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5), elements=floats))
def test_every_finite_output_equals_itself(values):
    report = judge({"y": values}, {"y": values})
    assert report.passed
    assert decode(ParityReport, encode(report), source="test") == report


@given(
    hnp.arrays(np.float64, 8, elements=st.floats(allow_nan=False, allow_infinity=False)),
    hnp.arrays(np.float64, 8, elements=st.floats()),
)
def test_reports_always_survive_json(reference, candidate):
    report = judge({"y": reference}, {"y": candidate})
    assert decode(ParityReport, encode(report), source="test") == report
    output = report.outputs[0]
    numbers = (output.max_abs, output.max_rel, output.cosine, output.snr_db, output.reference_range)
    assert all(math.isfinite(number) for number in numbers)


@given(
    hnp.arrays(np.float32, (3, 7), elements=st.floats(-100, 100, width=32)),
    st.floats(1e-20, 1e20),
)
def test_the_verdict_does_not_depend_on_the_scale(values, scale):
    reference = np.asarray(values, np.float64)
    if np.ptp(reference) < 1 or np.abs(reference).max() * min(scale, 1) < parity.NEAR_ZERO_RANGE:
        return
    candidate = reference + np.abs(reference).max() * 1e-4
    plain, scaled = one(reference, candidate), one(reference * scale, candidate * scale)
    assert plain.snr_db == pytest.approx(scaled.snr_db, rel=1e-6)
    assert plain.passed == scaled.passed


def test_values_beyond_float32_do_not_overflow():
    output = one(np.array([1e199, -2e199]), np.array([1e199, -2e199 * (1 + 1e-7)]))
    assert output.passed
    assert output.snr_db == pytest.approx(140, abs=1.5)


# --- what must never pass -----------------------------------------------------------------------


def test_cosine_alone_never_passes():
    reference = np.full(1000, 0.001, np.float32)
    reference[3] = 0.0011
    output = one(reference, reference * 1000)
    assert output.cosine == pytest.approx(1.0)
    assert not output.passed
    assert "max abs" in output.reason


@pytest.mark.parametrize("precision", sorted(parity.BOUNDS))
def test_all_zeros_and_a_shuffled_output_fail_in_every_precision(precision):
    reference = np.random.default_rng(1).standard_normal((4, 50)).astype(np.float32)
    bound = parity.bound_for(precision)
    assert not one(reference, np.zeros_like(reference), bound).passed
    assert not one(reference, reference[:, ::-1], bound).passed
    assert not one(reference, -reference, bound).passed


@pytest.mark.parametrize("precision", sorted(parity.BOUNDS))
def test_one_wrong_value_among_many_fails(precision):
    reference = np.random.default_rng(2).standard_normal(100_000).astype(np.float32)
    candidate = reference.copy()
    candidate[777] += np.abs(reference).max()
    assert not one(reference, candidate, parity.bound_for(precision)).passed


def test_a_small_error_everywhere_fails_in_fp32_though_each_is_within_the_distance():
    reference = np.random.default_rng(3).standard_normal(1000).astype(np.float32)
    output = one(reference, reference + 2e-4 * np.abs(reference).max())
    assert output.max_abs <= FP32.max_abs_share * output.reference_range
    assert not output.passed
    assert "SNR" in output.reason


def test_a_tanh_gelu_is_not_an_exact_one():
    x = np.linspace(-4, 4, 4001)
    exact = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert not one(exact, tanh).passed
    assert one(exact, tanh, parity.BOUNDS["fp16"]).passed


def test_rounding_to_each_precision_passes_its_own_bound():
    reference = np.random.default_rng(4).standard_normal((8, 100)).astype(np.float32)
    half = reference.astype(np.float16)
    assert one(reference, half, parity.BOUNDS["fp16"]).passed
    assert not one(reference, half, FP32).passed
    step = np.abs(reference).max() / 127
    assert one(reference, np.round(reference / step) * step, INT8).passed


# --- damaged and unequal outputs ----------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_reference_is_the_models_fault(bad):
    with pytest.raises(ModelError, match='output "y" of the reference is NaN or infinite') as caught:
        one([1.0, bad], [1.0, 1.0])
    assert caught.value.owner == "model"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_where_the_reference_is_broken_the_candidate_must_be_so_too(bad):
    wanted = np.array([1.0, bad, 3.0, 4.0], np.float32)
    report = judge({"y": wanted}, {"y": wanted})
    assert report.passed
    assert report.warnings == (
        'weak: output "y" is NaN or infinite in 1 of 4 values on these inputs; it proves little',
    )
    assert not one(wanted, [1.0, 2.0, 3.0, 4.0]).passed
    assert not one(wanted, [1.0, bad, 3.0, 5.0]).passed
    assert not one(wanted, [bad, bad, 3.0, 4.0]).passed
    other = -np.inf if bad > 0 else np.inf
    assert not one(wanted, [1.0, other, 3.0, 4.0]).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_candidate_does_not_pass(bad):
    output = one([1.0, 2.0, 3.0], [1.0, bad, 3.0])
    assert not output.passed
    assert output.reason == "1 of 3 values are NaN or infinite"
    assert output.snr_db == -200.0


def test_shapes_must_agree_up_to_axes_of_one():
    reference = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    assert one(reference, reference[0]).passed
    assert one(reference, reference[..., None]).passed
    output = one(reference, reference.reshape(3, 2))
    assert not output.passed
    assert output.reason == "shape [3,2], where [1,2,3] was expected"


@given(
    hnp.array_shapes(min_dims=0, max_dims=4, max_side=4), hnp.array_shapes(min_dims=0, max_dims=4, max_side=4)
)
def test_align_only_adds_or_removes_axes_of_one(found, wanted):
    array = np.arange(math.prod(found)).reshape(found)
    fitted = parity.align(array, wanted)
    if [n for n in found if n != 1] == [n for n in wanted if n != 1]:
        assert fitted is not None
        assert fitted.shape == wanted
        assert list(fitted.ravel()) == list(array.ravel())
    else:
        assert fitted is None


def test_a_missing_output_is_named_with_what_is_there():
    report = judge({"a": np.ones(2), "b": np.arange(3.0)}, {"a": np.ones(2)})
    assert not report.passed
    assert report.outputs[1].reason == "missing; there are: a"


def test_a_missing_batch_does_not_pass():
    report = judge([{"y": np.arange(3.0)}] * 2, [{"y": np.arange(3.0)}])
    assert report.outputs[0].reason == "1 of 2 batches"


def test_no_reference_at_all_is_a_bug_of_ours():
    with pytest.raises(BugError):
        judge([], [])
    with pytest.raises(BugError):
        judge({}, {})


def test_text_cannot_be_compared():
    with pytest.raises(ModelError, match="element type"):
        one(np.array(["a", "b"]), np.array(["a", "b"]))
    assert "element type" in one(np.ones(2), np.array(["a", "b"])).reason


# --- integers and booleans ----------------------------------------------------------------------


def test_integers_are_compared_exactly_whatever_their_width():
    reference = np.array([1, -2, 3], np.int64)
    assert one(reference, reference.astype(np.int32), INT8).passed
    assert one(reference, reference.astype(np.float32), INT8).passed
    output = one(reference, np.array([1, -2, 4], np.int32), INT8)
    assert not output.passed
    assert output.reason == "1 of 3 values differ; integers and booleans must be equal"


def test_large_integers_are_not_rounded_before_they_are_compared():
    reference = np.array([2**53, 2**62], np.int64)
    assert not one(reference, reference + 1).passed
    assert not one(np.array([2**63], np.uint64), np.array([-(2**63)], np.int64)).passed


def test_booleans_are_compared_exactly():
    assert one([True, False], [True, False]).passed
    assert one([True, False], [1.0, 0.0]).passed
    assert not one([True, False], [True, True]).passed


# --- weak outputs -------------------------------------------------------------------------------


def test_a_constant_output_is_weak_and_must_be_nearly_equal():
    reference = np.full(1000, 0.001, np.float32)
    report = judge({"y": reference}, {"y": reference})
    assert report.passed
    assert report.warnings == (
        'weak: output "y" is constant (range 0.001) on these inputs; it proves little',
    )
    assert judge({"y": reference}, {"y": reference * (1 + 1e-7)}).passed
    assert not judge({"y": reference}, {"y": reference * (1 + 2e-4)}).passed  # within the usual distance
    assert not judge({"y": reference}, {"y": reference * 1.05}, INT8).passed


def test_a_zero_output_must_stay_zero():
    zero = np.zeros(10, np.float32)
    report = judge({"y": zero}, {"y": zero})
    assert report.passed
    assert report.warnings[0].startswith("weak")
    assert judge({"y": zero}, {"y": zero + 1e-7}).passed
    assert not judge({"y": zero}, {"y": zero + 1e-4}, INT8).passed
    assert not judge({"y": zero[:1]}, {"y": zero[:1] + 1e-4}, INT8).passed


def test_an_output_near_zero_is_weak_and_float_noise_is_forgiven():
    reference = np.random.default_rng(5).uniform(0, 2.1e-5, 500).astype(np.float32)
    noise = np.random.default_rng(6).uniform(-1e-7, 1e-7, 500)
    report = judge({"y": reference}, {"y": reference + noise})
    assert report.passed
    assert "near zero" in report.warnings[0]
    assert not judge({"y": reference}, {"y": np.zeros(500)}).passed


def test_noise_of_a_saturated_sigmoid_counts_as_zero():
    reference = np.where(np.arange(100) % 3 == 0, 2.98e-8, 0).astype(np.float32)
    report = judge({"y": reference}, {"y": np.roll(reference, 1)})
    assert report.passed
    assert "is zero" in report.warnings[0]
    assert not judge({"y": reference}, {"y": reference + 1e-5}, INT8).passed


def test_a_single_value_is_judged_as_any_other():
    assert one([0.7], [0.71], INT8).passed
    assert not one([0.7], [0.71]).passed


def test_an_empty_output_proves_nothing_but_its_shape():
    report = judge({"y": np.zeros((0, 4))}, {"y": np.zeros((0, 4))})
    assert report.passed
    assert "empty" in report.warnings[0]
    assert not judge({"y": np.zeros((0, 4))}, {"y": np.zeros((0, 3))}).passed


# --- bounds -------------------------------------------------------------------------------------


def test_an_unknown_precision_has_no_bound():
    with pytest.raises(UserError) as caught:
        parity.bound_for("int9")
    assert 'did you mean "int8"?' in caught.value.hint


def test_bounds_grow_looser_with_the_precision():
    order = [parity.BOUNDS[name] for name in ("fp32", "fp16", "int8-dynamic", "int8")]
    assert [b.max_abs_share for b in order] == sorted(b.max_abs_share for b in order)
    assert [b.min_snr_db for b in order] == sorted((b.min_snr_db for b in order), reverse=True)


# --- over the noise floor of a quantized model --------------------------------------------------


def _noisy_bound(step):
    """Values rounded to the nearest step, and the bound over three runs that round them at random."""
    exact = np.linspace(-1, 1, 2000) / step
    shaken = [np.random.default_rng(seed).uniform(-0.5, 0.5, exact.shape) for seed in range(3)]
    runs = [{"y": np.round(exact + noise) * step} for noise in shaken]
    wanted = np.round(exact) * step
    return wanted, parity.bounds_over_noise("int8", {"y": wanted}, runs, 3.0)["y"]


def test_the_bound_follows_the_floor():
    _, fine = _noisy_bound(step=1 / 128)
    _, coarse = _noisy_bound(step=1 / 16)
    assert fine.noise_db == pytest.approx(coarse.noise_db + 20 * math.log10(8), abs=0.5)
    assert fine.min_snr_db == pytest.approx(fine.noise_db - 3)
    assert fine.max_abs_share < coarse.max_abs_share


def test_what_the_fixed_bound_lets_pass_the_floor_finds():
    wanted, bound = _noisy_bound(step=1 / 128)
    wrong = {"y": wanted * 1.05}  # a scale that is 5 % off: 26 dB
    report = parity.judge({"y": wanted}, wrong, INT8, where="controller", reference_name="r")
    assert report.passed
    judged = parity.judge(
        {"y": wanted}, wrong, INT8, where="controller", reference_name="r", own_bounds={"y": bound}
    )
    assert not judged.passed
    assert judged.outputs[0].reason.startswith("max abs error 0.05 is above 0.02")
    assert judged.outputs[0].snr_db == pytest.approx(26, abs=0.1)
    assert judged.outputs[0].bound == bound


def test_one_more_rounding_passes():
    wanted, bound = _noisy_bound(step=1 / 128)
    other = {"y": wanted + np.where(np.arange(2000) % 4 == 0, 1 / 128, 0.0)}
    assert parity.judge(
        {"y": wanted}, other, INT8, where="controller", reference_name="r", own_bounds={"y": bound}
    ).passed


@pytest.mark.parametrize(("error", "demanded"), [(0.0, 78.0), (1e-9, 78.0), (0.9, 6.0)])
def test_what_is_demanded_has_two_ends(error, demanded):
    wanted = np.linspace(-1, 1, 2000)
    runs = [{"y": wanted + error * np.where(np.arange(2000) % 2, 1, -1)}]
    bound = parity.bounds_over_noise("int8", {"y": wanted}, runs, 3.0)["y"]
    assert bound.min_snr_db == demanded


def test_a_floor_that_drowns_the_output_is_said():
    wanted = np.linspace(-1, 1, 2000)
    runs = [{"y": wanted + 0.2 * np.where(np.arange(2000) % 2, 1, -1)}]
    bounds = parity.bounds_over_noise("int8", {"y": wanted}, runs, 3.0)
    report = parity.judge(
        {"y": wanted}, {"y": wanted}, INT8, where="c", reference_name="r", own_bounds=bounds
    )
    assert report.passed
    assert 'rounding alone moves output "y"' in report.warnings[0]


def test_integer_outputs_are_exact_whatever_the_noise():
    wanted = {"y": np.arange(10), "z": np.linspace(-1, 1, 10)}
    assert list(parity.bounds_over_noise("int8", wanted, [wanted], 3.0)) == ["z"]
