"""What "int8" means for a runtime on a processor: the form that it really executes well. A literal table.

A preset belongs to runtime and processor, never to a model: each gets its file from the same float32 model.
Which instructions an x86 processor has is told by device facts (`cpu_features`), not by its name; where they
are not known, the form that is right on both kinds is taken, which costs one bit of the weights.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

import msgspec

from edgebench.compress.base import ARM, Options
from edgebench.compress.qdq import budget_problem
from edgebench.errors import UserError, did_you_mean
from edgebench.records import RUNTIMES, Record, to_json

VNNI = ("avx512_vnni", "avx_vnni")  # in cpu_features; each multiplies 8-bit numbers without saturation


class Preset(Record, frozen=True):
    """One form. `step` is a step of ours with its options; "": the runtime's converter quantizes itself.

    `why` and `known_from` ("measured", "documented") are for people.
    """

    name: str
    runtime: str
    step: str
    form: str
    why: str
    known_from: str


class Processor(NamedTuple):
    """A kind of processor; `vnni` None: its instructions are not known."""

    arch: str
    vnni: bool | None = None


def processor(arch: str, cpu_features: Collection[str] | None) -> Processor:
    """The processor of an architecture and the instructions in its facts; None or none: not known."""
    return Processor(arch, any(each in cpu_features for each in VNNI) if cpu_features else None)


_X86_VNNI = ("int8-static:activation=uint8", "U8S8 QDQ, per channel", "fuses, no saturation with VNNI")
_X86 = (
    "int8-static:activation=uint8,reduce_range=true",
    "U8S8 QDQ, per channel, weights in 7 bits",
    "8-bit products saturate without VNNI",
)
_ARM = ("int8-static:activation=int8", "S8S8 QDQ, per channel", "signed kernels of ARM")
_TENSORRT = (
    "int8-static:preset=tensorrt",
    "S8S8 QDQ, symmetric, per channel, float bias",
    "zero points are 0 in its kernels; pairs before weighted layers and sums",
)
_NCNN = ("", "its own int8 files, symmetric, weighted layers", "ncnn reads no QDQ; edgebench calibrates")
_COREML = ("int8-static", "QDQ per channel (W8A8)", "quantize and dequantize of its programs, iOS 17")


def preset(runtime: str, on: Processor) -> Preset:
    """The int8 form for a runtime on a processor; UserError for an unknown runtime."""
    if runtime in ("onnxruntime", "openvino"):
        return _by_processor(runtime, on)
    if runtime == "tensorrt":
        return _made("tensorrt", runtime, _TENSORRT, "documented")
    if runtime == "ncnn":
        return _made("ncnn", runtime, _NCNN, "measured")
    if runtime == "coreml":
        return _made("coreml", runtime, _COREML, "documented")
    raise UserError(f'no runtime "{runtime}"', hint=did_you_mean(runtime, RUNTIMES))


def _by_processor(runtime: str, on: Processor) -> Preset:
    if on.arch in ARM:
        return _made(f"{runtime}-arm", runtime, _ARM, "documented")
    if on.vnni:
        known_from = "measured" if runtime == "onnxruntime" else "documented"
        return _made(f"{runtime}-x86-vnni", runtime, _X86_VNNI, known_from)
    name = f"{runtime}-x86-no-vnni" if on.vnni is False else f"{runtime}-x86"
    return _made(name, runtime, _X86, "documented")


def _made(name: str, runtime: str, said: tuple[str, str, str], known_from: str) -> Preset:
    step, form, why = said
    return Preset(name=name, runtime=runtime, step=step, form=form, why=why, known_from=known_from)


# --- one request, many forms ----------------------------------------------------------------------

_BUDGETS = ("max_drop", "min_snr")


class Int8Options(Options, frozen=True):
    """One request that each runtime gets its own form for. All of it may be left out.

    `for` names the runtimes ("onnxruntime,ncnn"; none: all that are measured). `max_drop` ("1 pp" of top1 on
    labelled validation samples) and `min_snr` ("25 dB" on the calibration samples) keep the costliest layers
    float until they hold. `output` is the one that top1 looks at. `ranges` as in int8-static.
    """

    runtimes: str = msgspec.field(default="", name="for")
    max_drop: float | str | None = None
    min_snr: float | str | None = None
    output: str = ""
    ranges: Literal["minmax", "entropy", "percentile"] = "minmax"

    def label(self) -> str:
        """The variant's name."""
        return "int8"

    def problem(self) -> str:
        """What is wrong with the budget or the runtimes, or ""."""
        unknown = [name for name in self.named_runtimes() if name not in RUNTIMES]
        if unknown:
            return f'no runtime "{unknown[0]}"; known: {", ".join(RUNTIMES)}'
        return budget_problem(self.max_drop, self.min_snr)

    def named_runtimes(self) -> tuple[str, ...]:
        """The runtimes it is for; none: all."""
        return tuple(filter(None, (name.strip() for name in self.runtimes.split(","))))

    def text(self) -> str:
        """Its options but for the runtimes, as they stand behind a step's name; "" for none."""
        said = {name: value for name, value in to_json(self).items() if name != "for"}
        plain = to_json(Int8Options())
        return ",".join(f"{name}={value}" for name, value in said.items() if value != plain[name])


def step_of(runtime: str, on: Processor, request: str = "") -> str:
    """The step with its options that makes a runtime's int8 form; "" where its converter quantizes itself.

    `request` are the options of `Int8Options.text`. With any of them ncnn gets a QDQ file, whose scales and
    float layers its converter takes over.
    """
    step = preset(runtime, on).step
    if not request:
        return step
    if not step:
        step = "int8-static:activation=int8,symmetric=true,operators=weighted"
    name, _, options = step.partition(":")
    if any(f"{budget}=" in request for budget in _BUDGETS):
        name = "int8-mixed"
    return f"{name}:{','.join(filter(None, (options, request)))}"
