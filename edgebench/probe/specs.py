"""The spec of a launch, checked and made absolute: what `launch` itself may rely on."""

import os
from typing import Any, Dict, List, Optional

from . import check
from .runtimes.base import RUNTIMES
from .wire import Json, ProbeError

MAX_OUTPUTS = 1024
MAX_SAMPLES = 1000
VERSIONS_TIMEOUT_S = 120.0
NO_WORKLOAD = {"threads": 0}


def checked(fields: Any, work: str) -> Json:
    """The spec with checked values; paths are absolute and lie below the work folder."""
    artifact = check.below(check.text(fields, "artifact"), work, "the artifact")
    return {
        "runtime": runtime(fields),
        "bundle": bundle(fields, work),
        "entry": _entry(fields, artifact),
        "blobs": check.texts(fields, "blobs"),
        "options": check.texts(fields, "options"),
        "samples": _samples(fields, work),
        "outputs": _outputs(fields),
        "workload": _workload(check.table(fields, "workload")),
        "engine": _engine(fields, work),
    }


def for_build(fields: Any, work: str) -> Json:
    """The spec of a process that builds what this device runs."""
    artifact = check.below(check.text(fields, "artifact"), work, "the artifact")
    return {
        "runtime": runtime(fields),
        "bundle": None,
        "artifact": artifact,
        "entry": _entry(fields, artifact),
        "blobs": {},
        "options": check.texts(fields, "options"),
        "workload": NO_WORKLOAD,
    }


def for_versions(fields: Any, work: str) -> Json:
    """The spec of a process that only imports a runtime."""
    return {
        "runtime": runtime(fields),
        "bundle": bundle(fields, work),
        "entry": {},
        "blobs": {},
        "options": {},
        "workload": NO_WORKLOAD,
    }


def runtime(fields: Any) -> str:
    """The name of a known runtime."""
    name = check.name(fields, "runtime")
    if name not in RUNTIMES:
        raise check.bad('the probe has no runtime "%s"; it has %s' % (name, ", ".join(sorted(RUNTIMES))))
    return name


def bundle(fields: Any, work: str) -> Optional[str]:
    """The bundle's absolute path, or None for the device's own Python packages."""
    path = check.text(fields, "bundle", None)
    if path is None:
        return None
    try:
        return check.below(path, work, "the bundle")
    except ProbeError as error:
        if error.message.endswith("is not there"):
            raise ProbeError("runtime_missing", error.message) from None
        raise


def _engine(fields: Any, work: str) -> Optional[str]:
    path = check.text(fields, "engine", None)
    return None if path is None else check.below(path, work, "the engine")


def _entry(fields: Any, artifact: str) -> Dict[str, str]:
    entry = {}
    for part, path in check.texts(fields, "entry").items():
        full = os.path.join(artifact, *check.relative(path, "an entry file").split("/"))
        if not os.path.isfile(full):
            raise check.bad('the artifact has no file "%s"' % path)
        entry[part] = full
    return entry


def _samples(fields: Any, work: str) -> List[List[Json]]:
    samples = check.items(fields, "samples", MAX_SAMPLES)
    if not samples:
        raise check.bad('"samples" must hold at least one sample')
    return [_sample(sample, work) for sample in samples]


def _sample(sample: Any, work: str) -> List[Json]:
    if not isinstance(sample, list) or len(sample) > MAX_OUTPUTS:
        raise check.bad("a sample must be a list of at most %d inputs" % MAX_OUTPUTS)
    return [
        {"name": check.text(each, "name"), "path": check.below(check.text(each, "path"), work, "an input")}
        for each in sample
    ]


def _outputs(fields: Any) -> List[str]:
    outputs: List[str] = check.items(fields, "outputs", MAX_OUTPUTS)
    if not outputs or not all(isinstance(name, str) for name in outputs):
        raise check.bad('"outputs" must hold the names of the wanted outputs')
    return outputs


def _workload(fields: Any) -> Json:
    return {
        "threads": check.whole(fields, "threads", 0, 1024),
        "warmup_samples": check.whole(fields, "warmup_samples", 0, 200000),
        "max_warmup_s": check.number(fields, "max_warmup_s", 0, 86400),
        "min_samples": check.whole(fields, "min_samples", 1, 200000),
        "min_duration_s": check.number(fields, "min_duration_s", 0, 86400),
        "max_duration_s": check.number(fields, "max_duration_s", 0, 86400),
    }
