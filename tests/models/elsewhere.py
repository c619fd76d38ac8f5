"""Networks as other tools compress them: ONNX Runtime quantizers and its float16 converter, each in its ways.

edgebench takes such files as they are. A name tells the network and what was done to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from edgebench import model
from edgebench.compress.base import quiet
from tests.models.architectures import ARCHITECTURES
from tests.models.generate import save

NETWORKS = ("mobilenet_like", "vit")
SAMPLES = range(200, 208)


def compressed(name: str, folder: Path) -> Path:
    """The network `name` of ELSEWHERE, compressed in `folder`."""
    network, _, _ = name.partition("+")
    source = save(ARCHITECTURES[network](), folder / f"{network}-source.onnx")
    out = folder / f"{name}.onnx"
    with quiet():
        ELSEWHERE[name](source, out)
    return out


def _static(source: Path, out: Path, *, unsigned: bool, per_channel: bool) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the class is untyped
        def get_next(self) -> dict[str, Any] | None:
            return next(feeds, None)

    feeds = _feeds(source)
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )


def _feeds(source: Path) -> Iterator[dict[str, Any]]:
    info = model.inspect(source)
    return iter([model.random_inputs(info, seed) for seed in SAMPLES])


def _dynamic(source: Path, out: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, out, weight_type=QuantType.QInt8)


def _float16(source: Path, out: Path, *, float_io: bool) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=float_io), out)


_TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "qdq-u8-channel": partial(_static, unsigned=True, per_channel=True),
    "qdq-u8-tensor": partial(_static, unsigned=True, per_channel=False),
    "qdq-s8-channel": partial(_static, unsigned=False, per_channel=True),
    "qdq-s8-tensor": partial(_static, unsigned=False, per_channel=False),
    "dynamic": _dynamic,
    "fp16": partial(_float16, float_io=True),
    "fp16-io": partial(_float16, float_io=False),
}
ELSEWHERE = {f"{network}+{name}": tool for network in NETWORKS for name, tool in _TOOLS.items()}
