"""Making a float network int8 for ncnn, over as many inferences of the float network as there are samples.

Both have one processor and one thread. With several, ours computes samples side by side, while the threads of
the bare loop wait for one another within each inference: on a busy machine that takes ten times as long, and
the ratio would say that instead of what calibration costs. Loading counts in ours and not in the bare loop.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgebench import model
from edgebench.convert.base import Request
from edgebench.tools import find_pnnx
from tests.bench.measure import Ratio, paired

SAMPLES = 64
PAIRS = 5


def calibration_against_inference(home: Path, network: Path) -> Ratio:
    """Ranges, choice, proof and files of int8 from 64 images, over 64 float inferences in bare ncnn."""
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        folder = Path(scratch)
        request = _request(network, folder)
        images = np.load(request.calibration or "")["image"]

        def ours() -> float:
            from edgebench.convert.ncnn import int8

            files = int8.Files(folder / "m.ncnn.param", folder / "m.ncnn.bin")
            started = time.perf_counter()
            int8.make(request, files, folder, drops_batch=True)
            return time.perf_counter() - started

        name = f"ncnn int8 from {SAMPLES} images / {SAMPLES} float inferences"
        remark = f"{network.stem}; one thread each; absmax and KL, SNR of every layer, Winograd check, files"
        with _one_processor():
            return paired(
                name, ours, lambda: _inferences(folder, images), pairs=PAIRS, limit=3.0, remark=remark
            )


@contextlib.contextmanager
def _one_processor() -> Iterator[None]:
    """This process on one of its processors, where the system can do that (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _request(network: Path, folder: Path) -> Request:
    """The request of the conversion, with ncnn's float files in the folder."""
    shutil.copy(network, folder / "m.onnx")
    command = [str(find_pnnx(folder.parent)), "m.onnx", "fp16=0", "inputshape=[1,3,224,224]f32"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    images = np.random.default_rng(1).random((SAMPLES, 3, 224, 224), np.float32)
    np.savez(folder / "images.npz", image=images)
    return Request(
        model_path=str(network),
        info=model.inspect(network),
        precision="int8",
        calibration=str(folder / "images.npz"),
    )


def _inferences(folder: Path, images: np.ndarray) -> float:
    """Seconds for all images in bare ncnn, float32, one thread; without loading."""
    import ncnn

    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.num_threads = 1
    net.load_param(str(folder / "m.ncnn.param"))
    net.load_model(str(folder / "m.ncnn.bin"))
    started = time.perf_counter()
    for image in images:
        extractor = net.create_extractor()
        mat = ncnn.Mat(image).clone()
        extractor.input("in0", mat)
        extractor.extract("out0")
    return time.perf_counter() - started
