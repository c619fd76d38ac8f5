"""A bare timing loop over a runtime, as plain as one would write it by hand: what the probe is compared with.

    python bare_loop.py onnxruntime MODEL.onnx INPUT.npy INPUT_NAME SAMPLES
    python bare_loop.py ncnn PARAM BIN INPUT.npy SAMPLES

Prints the median of the samples in nanoseconds. One thread, twenty warm-up runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP = 20


def onnxruntime_loop(model: str, input_path: str, name: str) -> Callable[[], Any]:
    """One inference of an ONNX model in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    feeds = {name: np.load(input_path)}
    return lambda: session.run(outputs, feeds)


def ncnn_loop(param: str, weights: str, input_path: str) -> Callable[[], Any]:
    """One inference of an NCNN model: extractor, input, extract."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    net.load_param(param)
    net.load_model(weights)
    array = np.ascontiguousarray(np.load(input_path)[0], dtype=np.float32)
    blob = ncnn.Mat(array).clone()

    def infer() -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", blob)
        return extractor.extract("out0")

    return infer


LOOPS = {"onnxruntime": onnxruntime_loop, "ncnn": ncnn_loop}


def main() -> None:
    """Time one loop and print its median."""
    runtime, *arguments, samples = sys.argv[1:]
    infer = LOOPS[runtime](*arguments)
    for _ in range(WARM_UP):
        infer()
    clock = time.perf_counter_ns
    times = []
    for _ in range(int(samples)):
        before = clock()
        infer()
        after = clock()
        times.append(after - before)
    print(sorted(times)[len(times) // 2])


if __name__ == "__main__":
    main()
