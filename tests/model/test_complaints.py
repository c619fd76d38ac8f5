"""ONNX Runtime's words become operator, node and reason; no code, path or line of its source is left."""

from __future__ import annotations

import pytest

from edgebench.model.complaints import in_plain_words

FAIL = "[ONNXRuntimeError] : 1 : FAIL : "
LOADING = f"Fail: {FAIL}Load model from /home/u/.local/tmp/x/model.onnx failed:"
INVALID = f"{LOADING}This is an invalid model. "
RUNNING = f"Fail: {FAIL}Non-zero status code returned while running"
SOURCE = (
    "/onnxruntime_src/onnxruntime/core/framework/op_kernel.cc:87 virtual OrtValue* onnxruntime::"
    "OpKernelContext::OutputMLValue(int, const onnxruntime::TensorShape&) "
)
SAID = {
    f"{LOADING}Node (pool) Op (MaxPool) [ShapeInferenceError] no strides": 'MaxPool "pool": no strides',
    f"{RUNNING} Pad node. Name:'grow' Status Message: {SOURCE}{FAIL}it broke": 'Pad "grow": it broke',
    f"{RUNNING} Gather node. Name:'' Status Message: out of bounds": "Gather: out of bounds",
    f'{INVALID}In Node, ("b", If, "", -1) : ("c": t,) -> ("y": t,) , Error twice': 'If "b": twice',
    f"{INVALID}Error: two nodes with same node name (n).": "two nodes with same node name (n).",
    f"{FAIL}Could not find an implementation for Det(11)": "Could not find an implementation for Det(11)",
    "ncnn does not load the param file (status -1)": "ncnn does not load the param file (status -1)",
    "": "",
}


@pytest.mark.parametrize("said", SAID)
def test_in_plain_words(said: str) -> None:
    assert in_plain_words(said) == SAID[said]
