"""The spec of a launch, checked and made absolute: what `launch` itself may rely on."""

import os
from typing import Any, Dict, List, Optional

from . import check
from .room import FOLDERS
from .runtimes.base import RUNTIMES
from .wire import Json, ProbeError

MAX_OUTPUTS = 1024
MAX_SAMPLES = 1000
MAX_REPEATS = 1000
VERSIONS_TIMEOUT_S = 120.0
OF_AN_ARTIFACT = ("artifact", "entry", "blobs", "options", "outputs", "engine")
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


def for_duet(fields: Any, work: str) -> Json:
    """The spec of a launch of two: `beside` is the baseline's whole spec."""
    spec, told = checked(fields, work), check.table(fields, "beside")
    try:
        spec["beside"] = checked(dict(fields, **{key: told.get(key) for key in OF_AN_ARTIFACT}), work)
    except ProbeError as error:
        error.message = "the baseline: %s" % error.message
        raise
    spec["baseline_first"] = check.flag(fields, "baseline_first")
    return spec


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


def repeats(request: Json) -> int:
    """How many inferences of a profile are wanted."""
    return int(check.whole(request, "repeats", 1, MAX_REPEATS))


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


def units(fields: Any, work: str) -> List[str]:
    """The keys of the units of the work folder that a spec uses; its paths are not checked here."""
    samples = check.items(fields, "samples", MAX_SAMPLES)
    inputs = [each for sample in samples if isinstance(sample, list) for each in sample]
    beside = check.table(fields, "beside", {})
    paths = [fields.get("artifact"), fields.get("bundle"), fields.get("engine")]
    paths += [beside.get("artifact"), beside.get("engine")]
    paths += [each.get("path") for each in inputs if isinstance(each, dict)]
    found = set()
    for path in paths:
        if isinstance(path, str) and path.startswith(work + os.sep):
            parts = path[len(work) + 1 :].split(os.sep)[:2]
            if len(parts) == 2 and parts[0] in FOLDERS and "\n" not in parts[1]:
                found.add("/".join(parts))
    return sorted(found)


def _entry(fields: Any, artifact: str) -> Dict[str, str]:
    entry = {}
    for part, path in check.texts(fields, "entry").items():
        full = os.path.join(artifact, *check.relative(path, "an entry file").split("/"))
        if not os.path.exists(full):  # a Core ML package is a folder
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
