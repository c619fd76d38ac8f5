"""Static int8 of a ResNet-18-sized network from 64 images, over onnxruntime's own calibrator doing the same.

Both are fresh processes that read the model and the images from files and write the quantized file. Ours also
checks and describes the model, writes its lineage, and judges what the quantization costs.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.bench.measure import Line, Ratio, paired, peak_bytes, python, wall_s

SAMPLES = 64
PAIRS = 5
SLOWER, LARGER = 1.0, 1.5

OURS = """
from pathlib import Path
from edgebench import compress
settings = compress.Settings(calibration=Path({images!r}))
compress.apply(Path({model!r}), ["int8-static"], settings, out=Path({out!r}))
"""

THEIRS = """
import numpy
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

class Reader(CalibrationDataReader):
    def __init__(self):
        self.images = iter(numpy.load({images!r})["image"])
    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {{"image": image[None]}}

quant_pre_process({model!r}, {prepared!r}, skip_symbolic_shape=True)
quantize_static(
    {prepared!r}, {out!r}, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
)
"""


def static_int8(home: Path, network: Path) -> Iterator[Line]:
    """Seconds and peak memory, each over that of onnxruntime's calls."""
    images = home / "images.npz"
    np.savez(images, image=np.random.default_rng(1).random((SAMPLES, 3, 224, 224), np.float32))
    places = {
        "model": str(network),
        "images": str(images),
        "prepared": str(home / "prepared.onnx"),
        "out": str(home / "int8.onnx"),
    }
    ours, theirs = (script.format(**places) for script in (OURS, THEIRS))
    what = f"int8-static from {SAMPLES} images / onnxruntime's calibrator"
    remark = f"{network.stem}; whole processes; ours checks the model and judges the result, too"
    yield paired(
        f"{what}, time",
        lambda: wall_s(python("-c", ours)),
        lambda: wall_s(python("-c", theirs)),
        pairs=PAIRS,
        limit=SLOWER,
        remark=remark,
    )
    peaks = [peak_bytes(ours) / peak_bytes(theirs) for _ in range(3)]
    yield Ratio(
        f"{what}, peak memory", statistics.median(peaks), min(peaks), max(peaks), len(peaks), LARGER, remark
    )
