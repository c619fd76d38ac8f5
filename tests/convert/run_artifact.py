"""A script: runs one artifact once by its SDK alone. It shares no code with edgebench, to prove it wrong."""

from __future__ import annotations

import json
import sys

import numpy as np


def onnxruntime_outputs(task, feeds):
    import onnxruntime

    session = onnxruntime.InferenceSession(task["files"]["model"], providers=["CPUExecutionProvider"])
    return session.run(task["outputs"], feeds)


def openvino_outputs(task, feeds):
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": task["options"]["inference_precision"]}
    compiled = openvino.Core().compile_model(task["files"]["model"], "CPU", settings)
    result = compiled(feeds)
    return [result[name] for name in task["outputs"]]


def ncnn_outputs(task, feeds):
    import ncnn

    net = ncnn.Net()
    fp16 = task["options"]["fp16"] == "on"
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = fp16
    assert net.load_param(task["files"]["param"]) == 0
    assert net.load_model(task["files"]["bin"]) == 0
    extractor = net.create_extractor()
    held = []
    for name, value in feeds.items():
        value = value[0] if task["options"]["batch_axis"] == "drop" else value
        kind = np.float32 if value.dtype.kind == "f" else np.int32
        held.append(np.ascontiguousarray(value, dtype=kind))
        assert extractor.input(task["blobs"][name], ncnn.Mat(held[-1]).clone()) == 0
    outputs = []
    for name in task["outputs"]:
        status, mat = extractor.extract(task["blobs"][name])
        assert status == 0
        outputs.append(np.array(mat))
    return outputs


RUNTIMES = {"onnxruntime": onnxruntime_outputs, "openvino": openvino_outputs, "ncnn": ncnn_outputs}


def main():
    task = json.loads(sys.argv[1])
    with np.load(task["feeds"]) as loaded:
        feeds = {name: loaded[name] for name in loaded.files}
    outputs = RUNTIMES[task["runtime"]](task, feeds)
    np.savez(task["result"], **dict(zip(task["outputs"], outputs, strict=True)))


if __name__ == "__main__":
    main()
