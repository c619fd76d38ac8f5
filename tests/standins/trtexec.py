"""A stand-in for NVIDIA's trtexec, for tests: it computes nothing and replays what a test recorded.

It knows the options of the version that it plays (NVIDIA/TensorRT, samples/common/sampleOptions.cpp; the rest
is an unknown option, which is fatal as in the original), writes "engines" that only it can load, and exports
times, outputs, profiles and layers in the original's own formats, oddities included.

Configured by the file `trtexec.json` beside it; each call is noted in `calls` beside it. See `install`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAGIC = b"stand-in engine\n"
ALWAYS = {
    "help",
    "onnx",
    "saveEngine",
    "loadEngine",
    "timingCacheFile",
    "useDLACore",
    "allowGPUFallback",
    "shapes",
    "loadInputs",
    "exportTimes",
    "exportOutput",
    "exportProfile",
    "dumpProfile",
    "separateProfileRun",
    "warmUp",
    "duration",
    "iterations",
    "avgRuns",
    "noDataTransfers",
    "useSpinWait",
    "useCudaGraph",
    "noTF32",
    "sparsity",
    "percentile",
    "verbose",
}
# option -> (first version, first version without it)
NEVER = (1 << 30,)
SOME = {
    "workspace": ((8, 0, 0), (10, 0, 0)),
    "memPoolSize": ((8, 4, 0), NEVER),
    "buildOnly": ((8, 0, 0), (10, 0, 0)),
    "skipInference": ((8, 6, 0), NEVER),
    "explicitBatch": ((8, 0, 0), (10, 0, 0)),
    "fp16": ((8, 0, 0), (11, 0, 0)),
    "int8": ((8, 0, 0), (11, 0, 0)),
    "best": ((8, 0, 0), (11, 0, 0)),
    "calib": ((8, 0, 0), (11, 0, 0)),
    "stronglyTyped": ((10, 0, 0), NEVER),
    "profilingVerbosity": ((8, 2, 0), NEVER),
    "dumpLayerInfo": ((8, 2, 0), NEVER),
    "exportLayerInfo": ((8, 2, 0), NEVER),
    "noCudaGraph": ((11, 0, 0), NEVER),
    "noSpinWait": ((11, 0, 0), NEVER),
    "includeDataTransfers": ((11, 0, 0), NEVER),
}


def install(folder: Path, **config: Any) -> Path:
    """The path of an executable stand-in in `folder`. What it plays:

    version (8201), capability ("5.3"), device, times_ms (replayed in turn), outputs (folder of recordings,
    see `record`), layers (names), build_s (how long a build takes, with a line every 0.1 s), hang ("build",
    "measure" or "infer": never ends, with a child of its own), infer_s (how long inference takes), errors
    ({what: [E] lines}, status 1), crash (what ends by SIGSEGV), unpassed (what ends with status 0 and no
    PASSED line), unstable (the warning), driver (engines built under another number do not load).
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "trtexec"
    if not program.exists():
        program.write_text("#!/usr/bin/python3\n" + Path(__file__).read_text())
        program.chmod(0o755)
    configure(folder, **config)
    return program


def configure(folder: Path, **config: Any) -> None:
    """Change what an installed stand-in plays."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in config.items()}
    (folder / "trtexec.json").write_text(json.dumps(plain))


def calls(folder: Path) -> list[list[str]]:
    """The arguments of every call so far, help left out."""
    path = folder / "calls"
    if not path.exists():
        return []
    told = [json.loads(line) for line in path.read_text().splitlines()]
    return [each for each in told if "--help" not in each]


def record(
    folder: Path, inputs: Sequence[bytes], outputs: Mapping[str, tuple[str, Sequence[int], Sequence[Any]]]
) -> None:
    """Make these (dtype, shape, flat values) the outputs of these raw inputs, which are known by hash."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: [dtype, list(shape), list(values)] for name, (dtype, shape, values) in outputs.items()}
    (folder / f"{_hash(inputs)}.json").write_text(json.dumps(plain))


def _hash(inputs: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\0".join(inputs)).hexdigest()


class Failed(Exception):  # it is how the original ends, too
    """trtexec ends with FAILED; the text is its [E] line."""


class Stand:
    """One call."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.here = Path(argv[0]).resolve().parent
        self.command = " ".join(argv)
        self.argv = list(argv[1:])
        self.config: dict[str, Any] = json.loads((self.here / "trtexec.json").read_text())
        number = int(self.config.get("version", 8201))
        major = 1000 if number < 10000 else 10000
        self.number, self.version = number, (number // major, number % major // 100, number % 100)
        with (self.here / "calls").open("a") as file:
            file.write(json.dumps(self.argv) + "\n")

    # --- saying ---

    def say(self, text: str, level: str = "I") -> None:
        stream = sys.stdout if level == "I" else sys.stderr
        stream.write(f"[{time.strftime('%m/%d/%Y-%H:%M:%S')}] [{level}] {text}\n")
        stream.flush()

    def banner(self, state: str) -> None:
        build = " [b26]" if self.version >= (10, 4, 0) else ""
        sys.stdout.write(f"&&&& {state} TensorRT.trtexec [TensorRT v{self.number}]{build} # {self.command}\n")
        sys.stdout.flush()

    # --- running ---

    def run(self) -> int:
        self.banner("RUNNING")
        if "--help" in self.argv:
            print("=== Model Options ===\n  --onnx=<file>               ONNX model")
            return 0
        try:
            options = self.options()
            self.header()
            what = "build" if "onnx" in options else self.purpose(options)
            self.play(what)
            if what == "build":
                self.build(options)
            else:
                self.infer(options)
        except Failed as error:
            self.say(str(error), "E")
            self.banner("FAILED")
            return 1
        if self.config.get("unpassed") == what:
            return 0
        self.banner("PASSED")
        self.say("[TRT] a line of the library may follow")
        return 0

    def options(self) -> dict[str, str]:
        given = dict(each[2:].partition("=")[::2] for each in self.argv)
        wrong = [name for name in given if not self.knows(name)]
        for name in wrong[:-1]:
            self.say(f"Unknown option: --{name} {given[name]}", "E")
        if wrong:
            raise Failed(f"Unknown option: --{wrong[-1]} {given[wrong[-1]]}")
        return given

    def knows(self, name: str) -> bool:
        if name in ALWAYS:
            return True
        since, until = SOME.get(name, (NEVER, NEVER))
        return since <= self.version < until

    def header(self) -> None:
        self.say("=== Device Information ===")
        self.say(f"Selected Device: {self.config.get('device', 'NVIDIA Tegra X1')}")
        self.say(f"Compute Capability: {self.config.get('capability', '5.3')}")
        self.say("Compute Clock Rate: 0.9216 GHz")
        self.say("TensorRT version: " + ".".join(map(str, self.version)))
        self.say("[TRT] [MemUsageChange] Init CUDA: CPU +229, GPU +0, now: CPU 248, GPU 3325 (MiB)")

    @staticmethod
    def purpose(options: Mapping[str, str]) -> str:
        names = {"exportOutput": "infer", "exportProfile": "profile"}
        return next((what for name, what in names.items() if name in options), "measure")

    def play(self, what: str) -> None:
        """The trouble that a test asked for."""
        for line in self.config.get("errors", {}).get(what, [])[:-1]:
            self.say(line, "E")
        for line in self.config.get("errors", {}).get(what, [])[-1:]:
            raise Failed(line)
        if self.config.get("crash") == what:
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.config.get("hang") == what:
            subprocess.Popen(["sleep", "1000"])
            self.say("hanging")
            time.sleep(1000)

    # --- building ---

    def build(self, options: Mapping[str, str]) -> None:
        started = time.monotonic()
        model = Path(options["onnx"])
        if not model.is_file():
            raise Failed(f"[TRT] ModelImporter.cpp:735: Failed to parse ONNX model from file: {model}")
        step = 0
        while time.monotonic() - started < float(self.config.get("build_s", 0)):
            time.sleep(0.1)
            step += 1
            self.say(f"[TRT] tactic {step}")
        told = {
            "model": hashlib.sha256(model.read_bytes()).hexdigest(),
            "version": self.number,
            "capability": self.config.get("capability", "5.3"),
            "detailed": options.get("profilingVerbosity") == "detailed",
            "driver": self.config.get("driver", 1),
        }
        engine = MAGIC + json.dumps(told).encode()
        self.write(options["timingCacheFile"], b"timing cache")
        self.write(options["saveEngine"], engine + bytes(int(self.config.get("engine_bytes", 0))))
        self.say("[TRT] Total Activation Memory: 22118400")
        self.say(f"Engine built in {time.monotonic() - started + 0.001:.3f} sec.")

    def write(self, name: str, content: bytes) -> None:
        path = Path(name)
        if path.is_file() and path.stat().st_size:
            self.say(f"Loaded {path.stat().st_size} bytes of timing cache from {name}")
        try:
            path.write_bytes(content)
        except OSError as error:
            raise Failed(f"Saving engine to file failed: {error.strerror}") from error

    # --- running an engine ---

    def infer(self, options: Mapping[str, str]) -> None:
        engine = self.load(options["loadEngine"])
        inputs = self.inputs(options.get("loadInputs", ""))
        memory = "CPU +0, GPU +80, now: CPU 0, GPU 266 (MiB)"
        self.say(
            f"[TRT] [MemUsageChange] TensorRT-managed allocation in IExecutionContext creation: {memory}"
        )
        self.say("Starting inference")
        times = self.times(options)
        time.sleep(float(self.config.get("infer_s", 0)))
        if "exportTimes" in options:
            self.export_times(options, times)
        if "exportOutput" in options:
            self.export_output(Path(options["exportOutput"]), inputs)
        if "exportProfile" in options:
            self.export_profile(Path(options["exportProfile"]))
        if "exportLayerInfo" in options:
            self.export_layers(Path(options["exportLayerInfo"]), detailed=engine["detailed"])
        if self.config.get("unstable"):
            self.say("* GPU compute time is unstable, with coefficient of variance = 5.66545%.", "W")
        self.say("=== Performance summary ===")

    def load(self, name: str) -> dict[str, Any]:
        content = Path(name).read_bytes()
        try:
            told: dict[str, Any] = json.loads(content[len(MAGIC) :].rstrip(b"\0"))
        except ValueError:
            told = {}
        if not content.startswith(MAGIC) or told.get("driver") != self.config.get("driver", 1):
            raise Failed(
                "[TRT] 1: [stdArchiveReader.cpp::StdArchiveReader::30] Error Code 1: Serialization "
                "(Serialization assertion magicTagRead == magicTag failed.Magic tag does not match)"
            )
        self.say("Engine loaded in 0.0175 sec.")
        return told

    @staticmethod
    def inputs(text: str) -> list[bytes]:
        files = [each.rpartition(":")[2] for each in text.split(",") if each]
        return [Path(each).read_bytes() for each in files]

    def times(self, options: Mapping[str, str]) -> list[tuple[float, float]]:
        """(start, compute) in ms: first the warm-up, by time, then until iterations and duration are met."""
        recorded = self.config.get("times_ms", [1.0])
        warmup_ms = float(options.get("warmUp", 200))
        least = int(options.get("iterations", 10))
        end_ms = warmup_ms + 1000 * float(options.get("duration", 3))
        records: list[tuple[float, float]] = []
        now, counted = 0.0, 0
        while (counted < least or now < end_ms) and len(records) < 100_000:
            taken = float(recorded[len(records) % len(recorded)])
            counted += now >= warmup_ms
            records.append((now, taken))
            now += taken
        return records

    def export_times(self, options: Mapping[str, str], times: Sequence[tuple[float, float]]) -> None:
        warmup_ms = float(options.get("warmUp", 200))
        kept = [each for each in times if self.version < (8, 5, 1) or each[0] >= warmup_ms]
        lines = [_time_record(start, taken, self.version) for start, taken in kept]
        Path(options["exportTimes"]).write_text("[\n  " + "\n, ".join(lines) + "\n]\n")

    def export_output(self, path: Path, inputs: Sequence[bytes]) -> None:
        recording = Path(self.config["outputs"]) / f"{_hash(inputs)}.json"
        if not recording.is_file():
            raise Failed(f"the stand-in has no outputs for these inputs ({recording.name})")
        entries = []
        for name, (dtype, shape, values) in json.loads(recording.read_text()).items():
            body = b", ".join(_printed(value, dtype) for value in values)
            entries.append(
                b'{ "name" : "%s"\n  , "dimensions" : "%s"\n  , "values" : [ %s ]\n  }'
                % (name.encode(), "x".join(map(str, shape)).encode(), body)
            )
        path.write_bytes(b"[\n  " + b"\n  , ".join(entries) + b"\n]\n")

    def export_profile(self, path: Path) -> None:
        lines = ['{ "count" : 12 }']
        for number, name in enumerate(self.config.get("layers", ["Conv_0 + Relu_1"])):
            average = 0.1 + number
            lines.append(
                f'{{ "name" : "{name}", "timeMs" : {12 * average:g}, "averageMs" : {average:g}'
                f'{_median(average, self.version)}, "percentage" : 10 }}'
            )
        path.write_text("[\n  " + "\n, ".join(lines) + "\n]\n")

    def export_layers(self, path: Path, *, detailed: bool) -> None:
        names = self.config.get("layers", ["Conv_0 + Relu_1"])
        layers: list[Any] = [{"Name": each, "LayerType": "CaskConvolution"} for each in names]
        path.write_text(json.dumps({"Layers": layers if detailed else names, "Bindings": []}))


def _median(average: float, version: tuple[int, ...]) -> str:
    return "" if version < (8, 4, 0) else f', "medianMs" : {average:g}'


def _time_record(start: float, taken: float, version: tuple[int, ...]) -> str:
    end = start + taken
    fields = {
        "startEnqMs": start + 0.1,
        "endEnqMs": start + 0.13,
        "startH2dMs": start,
        "endH2dMs": start,
        "startComputeMs": start,
        "endComputeMs": end,
        "startD2hMs": end,
        "endD2hMs": end,
        "h2dMs": 0,
        "computeMs": taken,
        "d2hMs": 0,
        "latencyMs": taken,
    }
    if version < (8, 4, 0):
        fields["endToEndMs"] = taken
    return "{ " + ", ".join(f'"{name}" : {value:g}' for name, value in fields.items()) + " }"


def _printed(value: float, dtype: str) -> bytes:
    """A value as C++ streams print it: 6 digits, bare nan and inf, one byte for types of one byte."""
    if dtype in ("uint8", "int8"):
        return struct.pack("b" if dtype == "int8" else "B", value)
    return f"{value:.6g}".encode() if isinstance(value, float) else str(int(value)).encode()


def main() -> int:
    """Play one call."""
    return Stand(sys.argv).run()


if __name__ == "__main__":
    sys.exit(main())
