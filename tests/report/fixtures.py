"""Runs made by code: one calm, one with everything that goes wrong, one that is hostile."""

from __future__ import annotations

import random
from collections.abc import Sequence

from edgebench.records import (
    Artifact,
    ArtifactFile,
    Conditions,
    Facts,
    Failure,
    Job,
    Launch,
    Measurement,
    MemoryLadder,
    OutputParity,
    ParityBound,
    ParityReport,
    Run,
    Spread,
    Tensor,
    Track,
    Workload,
    replace,
    to_json,
)

MIB = 1024**2
LOAD_NS = 14_200_000
FIRST_NS = 6_400_000
RUN = "20260801-101500-7f3a"

PI5 = Facts(
    arch="aarch64",
    bits=64,
    os="linux",
    kernel="6.12.25+rpt-rpi-2712",
    python="3.11.2",
    board="Raspberry Pi 5 Model B Rev 1.0",
    soc="bcm2712",
    cpu="Cortex-A76",
    cores=4,
    os_release="Debian GNU/Linux 12 (bookworm)",
    libc="glibc 2.36",
    memory_bytes=8 * 1024 * MIB,
    emulated=False,
)
LOCAL = Facts(
    arch="x86_64",
    bits=64,
    os="linux",
    kernel="6.1.0-31-amd64",
    python="3.11.9",
    cpu="Intel(R) Xeon(R) Silver 4314 CPU @ 2.40GHz",
    cores=16,
    os_release="Debian GNU/Linux 12 (bookworm)",
    memory_bytes=64 * 1024 * MIB,
    emulated=False,
)
ZERO = replace(
    PI5, board="Raspberry Pi Zero 2 W Rev 1.0", soc="bcm2710", cpu="Cortex-A53", memory_bytes=416 * MIB
)
FACTS = {"pi5-01": PI5, "zero-01": ZERO, "local": LOCAL}
TARGETS = {"pi5-01": "raspberry-pi-5-8gb", "zero-01": "raspberry-pi-zero-2w", "local": "linux-x86_64"}
VERSIONS = {"onnxruntime": "1.22.1", "ncnn": "1.0.20250503", "openvino": "2025.2.0"}
BOUNDS = {
    "fp32": ParityBound(precision="fp32", max_abs_share=1e-4, min_snr_db=80.0, min_cosine=0.9999),
    "fp16": ParityBound(precision="fp16", max_abs_share=1e-2, min_snr_db=45.0, min_cosine=0.999),
    "int8": ParityBound(precision="int8", max_abs_share=0.2, min_snr_db=15.0, min_cosine=0.98),
}


def timings(p50_ns: int, count: int = 700, *, noise: float = 0.01, seed: int = 1) -> list[int]:
    """Samples like those of a quiet board: a narrow body and some slow ones."""
    source = random.Random(seed)
    body = [p50_ns * (1 + source.gauss(0, noise)) for _ in range(count)]
    return [round(x * (1.3 if source.random() < 0.02 else 1)) for x in body]


def job(
    *,
    model: str = "digits",
    variant: str = "fp32",
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    device: str = "pi5-01",
    batch: int = 1,
) -> Job:
    """One cell of a run."""
    return Job(
        model=model,
        model_path=f"models/{model}-{variant}.onnx",
        variant=variant,
        runtime=runtime,
        precision=precision,
        device=device,
        target=TARGETS.get(device, "linux-aarch64"),
        workload=Workload(batch=batch),
    )


def artifact(cell: Job, size_bytes: int) -> Artifact:
    """An artifact of one file for a job."""
    tensor = Tensor(name="x", dtype="float32", shape=(1, 1, 28, 28))
    return Artifact(
        digest=(cell.model + cell.variant + cell.runtime).encode().hex().ljust(64, "0")[:64],
        key="k",
        runtime=cell.runtime,
        precision=cell.precision,
        model=cell.model,
        variant=cell.variant,
        model_digest="ab" * 32,
        files=(ArtifactFile(path="model.onnx", sha256="cd" * 32, size_bytes=size_bytes),),
        size_bytes=size_bytes,
        entry={"model": "model.onnx"},
        inputs=(tensor,),
        outputs=(replace(tensor, name="y", shape=(1, 10)),),
        tool_versions={cell.runtime: VERSIONS.get(cell.runtime, "1.0")},
    )


def parity(where: str, precision: str = "fp32", *, snr_db: float | None = None) -> ParityReport:
    """A passed parity of two outputs."""
    bound = BOUNDS.get(precision, BOUNDS["int8"])
    snr = bound.min_snr_db + 7.5 if snr_db is None else snr_db
    outputs = tuple(
        OutputParity(
            name=name,
            max_abs=10 ** (-snr / 20),
            max_rel=0.004,
            cosine=0.99997,
            snr_db=snr + extra,
            reference_range=12.5,
            passed=True,
        )
        for name, extra in (("logits", 0.0), ("features", 3.0))
    )
    return ParityReport(where=where, reference="onnxruntime fp32", bound=bound, outputs=outputs, passed=True)


def launch(number: int, samples: Sequence[int], *, temperature_c: float = 52.0) -> Launch:
    """One launch on a quiet board."""
    state = Conditions(
        governor="performance",
        clock_khz=(2_400_000,) * 4,
        clock_max_khz=(2_400_000,) * 4,
        temperature_c=temperature_c,
        throttled=False,
        load_1m=0.2,
    )
    return Launch(
        number=number,
        session="s1",
        started_utc=f"2026-08-01T10:15:{number:02d}Z",
        import_ns=90_000_000,
        load_ns=LOAD_NS,
        first_inference_ns=FIRST_NS,
        warmup_ns=tuple(samples[:10]),
        warmup_stable=True,
        samples_ns=tuple(samples),
        memory=MemoryLadder(
            method="VmHWM, reset",
            start_bytes=9 * MIB,
            runtime_bytes=48 * MIB,
            model_bytes=55 * MIB,
            first_inference_bytes=58 * MIB,
            steady_peak_bytes=59 * MIB,
            peak_bytes=61 * MIB + number,
        ),
        before=state,
        after=replace(state, temperature_c=temperature_c + 3),
        runtime_version="1.22.1",
        effective={"threads": "4"},
        foreign_load=0.02,
    )


def measurement(
    cell: Job | None = None,
    *,
    samples: Sequence[Sequence[int]] | None = None,
    p50_ns: int = 4_000_000,
    size_bytes: int = 240_000,
    batch: int = 1,
    snr_db: float | None = None,
) -> Measurement:
    """A measurement with the samples given, or with five launches around `p50_ns`."""
    cell = cell or job(batch=batch)
    if samples is None:
        samples = [timings(round(p50_ns * (1 + 0.004 * k)), seed=k) for k in range(5)]
    launches = tuple(launch(number, each) for number, each in enumerate(samples, 1))
    version = VERSIONS.get(cell.runtime, "1.0")
    return Measurement(
        id=f"{cell.model}.{cell.variant}.{cell.runtime}.{cell.precision}.{cell.device}",
        run=RUN,
        job=cell,
        artifact=artifact(cell, size_bytes),
        facts=FACTS.get(cell.device, PI5),
        controller_parity=parity("controller", cell.precision, snr_db=snr_db),
        device_parity=parity(cell.device, cell.precision, snr_db=snr_db),
        launches=tuple(replace(one, runtime_version=version) for one in launches),
        status="ok",
        pushed_bytes=size_bytes,
    )


def powered(*, rails: bool = True) -> Measurement:
    """A measurement whose launches were watched by a sampler: 4 ms at 7 W, 3 W when idle."""
    track = Track(
        temperature_max_c=61.5,
        temperature_mean_c=58.0,
        clocks_khz={"cpu0": Spread(readings=6, low=2.4e6, mean=2.4e6, high=2.4e6)},
        power_mw=Spread(readings=6, low=6800.0, mean=7000.0, high=7400.0) if rails else None,
        power_rail="VDD_IN" if rails else None,
        power_method="INA3221 in sysfs" if rails else None,
        idle_power_mw=3000.0 if rails else None,
        idle_readings=6 if rails else 0,
        gpu_load=Spread(readings=6, low=0.9, mean=0.953, high=1.0) if rails else None,
    )
    one = measurement(samples=[[4_000_000] * 700] * 3)
    launches = tuple(replace(each, track=track, notes=("3 over-current events",)) for each in one.launches)
    cell = replace(one.job, workload=Workload(launches=3))
    return replace(one, job=cell, launches=launches)


def failure(cell: Job, owner: str, stage: str, message: str, hint: str) -> Failure:
    """A job that has no measurement."""
    return Failure(
        run=RUN,
        job=cell,
        owner=owner,  # type: ignore[arg-type]
        stage=stage,
        message=message,
        hint=hint,
        exit_code=4,
    )


def run(jobs: Sequence[Job] = (), *, status: str = "done") -> Run:
    """A run of the jobs given."""
    return Run(
        id=RUN,
        created_utc="2026-08-01T10:15:00Z",
        status=status,  # type: ignore[arg-type]
        plan={"jobs": [to_json(one) for one in jobs]},
        edgebench_version="0.1.0",
        controller="build-7",
    )


Example = tuple[Run, list[Measurement], list[Failure]]


def calm() -> Example:
    """Two devices, three runtimes, three forms of one model; nothing went wrong."""
    table = [
        ("fp32", "onnxruntime", "fp32", 412_000, 248_113, 96.0),
        ("fp32", "ncnn", "fp32", 371_000, 241_004, 94.2),
        ("fp32", "ncnn", "fp16", 233_000, 121_090, 58.4),
        ("int8-static", "onnxruntime", "int8", 187_400, 74_228, 27.1),
        ("pruned-50", "onnxruntime", "fp32", 409_800, 248_140, 96.3),
    ]
    made = [
        measurement(
            job(variant=variant, runtime=runtime, precision=precision, device=device),
            p50_ns=p50_ns * factor,
            size_bytes=size,
            snr_db=snr,
        )
        for device, factor in (("pi5-01", 1), ("zero-01", 9))
        for variant, runtime, precision, p50_ns, size, snr in table
    ]
    return run([one.job for one in made]), made, []


def troubled() -> Example:
    """Partial, invalid, emulated and failed jobs, one never reached, and cautions of every kind."""
    _, made, _ = calm()
    made = [one for one in made if one.job.device == "pi5-01"]
    hot = measurement(job(device="zero-01"), p50_ns=3_700_000)
    hot = replace(
        hot,
        status="invalid",
        launches=tuple(
            replace(one, valid=False, invalid_reason="throttled: 0x60002 (frequency capped)")
            for one in hot.launches
        ),
    )
    some = measurement(
        job(device="zero-01", runtime="ncnn"),
        samples=[timings(3_100_000, 250, seed=1), timings(3_420_000, 250, seed=2), timings(9_000_000, 250)],
        size_bytes=241_004,
    )
    noisy = replace(some.launches[2], valid=False, invalid_reason="other processes kept 1.7 of 4 cores busy")
    some = replace(
        some,
        status="partial",
        launches=(replace(some.launches[0], warmup_stable=False), some.launches[1], noisy),
        warnings=("the target expects power mode 15W, the device did not say",),
    )
    emulated = measurement(job(device="qemu-arm"), p50_ns=52_000_000)
    emulated = replace(emulated, facts=replace(PI5, board=None, emulated=True))
    big = measurement(
        job(model="mobilenet-v2", device="local", runtime="openvino"),
        samples=[timings(1_823_456_789, 40, seed=k) for k in range(2)],
        size_bytes=14 * MIB,
    )
    lost = job(model="mobilenet-v2", device="zero-01", runtime="ncnn")
    full = job(model="mobilenet-v2", device="pi5-01", runtime="openvino")
    failures = [
        failure(
            lost,
            "device",
            "push",
            "zero-01 has 3.1 MiB free below .edgebench, 13.4 MiB are needed",
            "free some space there, or `edgebench devices clean zero-01`",
        ),
        failure(
            full,
            "model",
            "convert",
            "openvino cannot convert the operator NonZero (node /head/NonZero_12)",
            "",
        ),
    ]
    never = job(model="mobilenet-v2", variant="int8-static", precision="int8", device="local")
    measured = [*made, hot, some, emulated, big]
    jobs = [one.job for one in measured] + [lost, full, never]
    return replace(run(jobs), status="interrupted"), measured, failures


def hostile() -> Example:
    """Names and messages from outside: escape sequences, markup, pipes, right-to-left, 300 characters."""
    names = (
        "\x1b[2J\x1b]0;owned\x07evil\r\nname",
        "<script>alert('x')</script> | `code` | [a](javascript:b) *b* $x$ @all",
        "データ模型-тест-\u202egnp.exe",
        "long" * 75,
        "[red]markup[/red] :smile: \\| end\\",
    )
    made = [
        measurement(job(model=name, variant=name, device=name, runtime="ncnn", precision="fp16"))
        for name in names
    ]
    made = [
        replace(one, facts=replace(one.facts, board=name), warnings=(name,))
        for one, name in zip(made, names, strict=True)
    ]
    failures = [failure(job(device=name), "bug", name, name * 3, name) for name in names]
    return run(), made, failures
