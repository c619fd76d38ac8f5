"""Training steps: a user's PyTorch network and its data in, a smaller trained network out, as an ONNX file.

    factory -> checked network and three data sets -> step after step, each kept -> float32 ONNX with lineage

PyTorch is imported on first use (extra [compress]).
"""

from __future__ import annotations

from edgebench.compress.training.base import (
    STEPS,
    ChannelPrune,
    Distill,
    Elsewhere,
    FineTune,
    HeadPrune,
    LayerDrop,
    Metric,
    MlpPrune,
    Progress,
    Qat,
    Sparsify,
    Trained,
    TrainSettings,
)
from edgebench.compress.training.run import revision, train

__all__ = [
    "STEPS",
    "ChannelPrune",
    "Distill",
    "Elsewhere",
    "FineTune",
    "HeadPrune",
    "LayerDrop",
    "Metric",
    "MlpPrune",
    "Progress",
    "Qat",
    "Sparsify",
    "TrainSettings",
    "Trained",
    "revision",
    "train",
]
