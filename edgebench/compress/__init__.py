"""Compression steps on ONNX files: a model and a list of steps in, a variant with its lineage out."""

from edgebench.compress.base import STEPS, Settings, apply, revision, step

__all__ = ["STEPS", "Settings", "apply", "revision", "step"]
