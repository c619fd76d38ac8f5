"""A fixed sample of ONNX's own cases through every runtime: passed or refused, and none comes out wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgebench.errors import InfrastructureError
from edgebench.tools import find_pnnx
from tests.conformance import cases
from tests.conformance.pool import Pool, judged
from tests.conformance.route import Outcome

PASSES = {
    "onnxruntime": [
        "test_attention_4d_causal",
        "test_averagepool_2d_ceil",
        "test_PReLU_2d",  # of an opset that no runtime knows any more
        "test_operator_add_broadcast",
        "test_scatter_elements_with_axis",  # generated indices would be out of range
        "test_swiglu",  # no kernel: written out, and ONNX's definition is the reference
    ],
    "openvino": [
        "test_attention_3d_local_window",  # wrong as it is, right written out
        "test_conv_with_strides_padding",
        "test_gru_defaults",
        "test_layer_normalization_4d_axis1",
        "test_linear_attention_gated",  # unknown to it
        "test_sce_mean_weight_ii_3d",
    ],
    "ncnn": [
        "test_attention_4d_gqa_causal",
        "test_averagepool_2d_pads_count_include_pad",
        "test_Conv2d_groups",  # a batch
        "test_convtranspose_pads",
        "test_gemm_all_attributes",
        "test_group_normalization_epsilon",
        "test_layer_normalization_3d_axis1_epsilon",  # pnnx: another axis
        "test_reduce_l2_do_not_keepdims_random",
        "test_resize_upsample_scales_cubic",
        "test_softmax_axis_1",
        "test_transpose_all_permutations_4",
    ],
    "coreml": [
        "test_clip_expanded",
        "test_conv_with_autopad_same",
        "test_gelu_tanh_1",
        "test_lstm_defaults",
        "test_resize_upsample_sizes_nearest_axes_2_3",
        "test_softmax_axis_0",
        "test_where_example",
    ],
}
REFUSED = {
    "openvino": ["test_bitcast_int32_to_float32", "test_resize_tf_crop_and_resize"],
    "ncnn": ["test_add_uint16", "test_if", "test_nonmaxsuppression_center_point_box_format"],
    "coreml": ["test_bitcast_int32_to_float32"],
}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(cases.cache_folder()) as opened:
        yield opened


def _judged(pool: Pool, runtime: str, names: list[str]) -> list[Outcome]:
    if runtime == "coreml":
        pytest.importorskip("coremltools", reason="missing tool: coremltools")
    if runtime == "ncnn":
        try:
            find_pnnx(cases.cache_folder())
        except InfrastructureError:
            pytest.skip("missing tool: pnnx")
    known = {case.name: case for case in cases.cases("frozen", cases.cache_folder())}
    return [pool.judge(known[name], runtime) for name in names]


@pytest.mark.parametrize("runtime", list(PASSES))
def test_cases_that_pass(pool: Pool, runtime: str) -> None:
    outcomes = _judged(pool, runtime, PASSES[runtime])
    assert [each for each in outcomes if each.verdict != "passed"] == []


@pytest.mark.parametrize("runtime", list(REFUSED))
def test_cases_that_are_refused_with_a_reason(pool: Pool, runtime: str) -> None:
    for outcome in _judged(pool, runtime, REFUSED[runtime]):
        assert (outcome.verdict, bool(outcome.reason)) == ("refused", True), outcome


def test_a_crash_of_a_tool_is_a_refusal_with_its_log(pool: Pool) -> None:
    """pnnx dies by a signal over this one; the worker lives on."""
    (outcome,) = _judged(pool, "ncnn", ["test_simple_rnn_batchwise"])
    assert outcome.verdict == "refused"
    assert "SIGSEGV" in outcome.reason
    assert pool.deaths == 0


def test_outcomes_come_in_the_order_of_the_work_whoever_is_first() -> None:
    known = {case.name: case for case in cases.cases("frozen", cases.cache_folder())}
    names = [
        "test_attention_4d_causal",
        "test_add",
        "test_bitcast_int32_to_float32",
        "test_abs",
        "test_gelu_tanh_1",
    ]
    with Pool(cases.cache_folder()) as one, Pool(cases.cache_folder()) as two:
        outcomes = list(judged([one, two], [(known[name], "onnxruntime") for name in names]))
    assert [each.case for each in outcomes] == names
    assert {each.verdict for each in outcomes} == {"passed"}
