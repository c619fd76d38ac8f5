"""A stand-in for coremltools.models.utils, for tests."""

import shutil


def compile_model(model, destination_path):
    if not model.endswith(".mlpackage") or not destination_path.endswith(".mlmodelc"):
        raise ValueError(f"{model} does not become {destination_path}")
    shutil.copytree(model, destination_path)
    return destination_path
