"""The report as one JSON document: the contract is docs/run.schema.json, in words docs/json.md.

Times are milliseconds, sizes bytes. What is not known is null, never 0; so is a number that JSON cannot hold.
"""

from __future__ import annotations

import math
from typing import Any

from edgebench.records import Failure, Job, Profile, to_json
from edgebench.report.base import Report, Row
from edgebench.statistics import Summary
from edgebench.units import NS_PER_MS

# Raised by one for every change that an existing reader could stumble over; new fields do not count. History:
#   1  first version
DOCUMENT_VERSION = 1


def document(report: Report) -> dict[str, Any]:
    """The run as plain JSON values: dicts, lists, texts, finite numbers, booleans and nulls."""
    plain: dict[str, Any] = _finite(
        {
            "schema": DOCUMENT_VERSION,
            "run": report.run.id,
            "created_utc": report.run.created_utc,
            "status": report.run.status,
            "stopped": report.run.stopped,
            "controller": report.run.controller,
            "edgebench_version": report.run.edgebench_version,
            "counts": to_json(report.counts),
            "measurements": [_measurement(row) for row in report.rows],
            "failures": [_failure(failure) for failure in report.failures],
            "missing": [_job(job) for job in report.missing],
            "claims": [to_json(each) for each in report.claims],
            "devices": [to_json(sheet) for sheet in report.devices],
        }
    )
    return plain


def _measurement(row: Row) -> dict[str, Any]:
    summary = row.summary
    return {
        "id": row.id,
        **_job(row.job),
        "artifact": row.artifact_digest,
        "artifact_bytes": row.artifact_bytes,
        "pushed_bytes": row.pushed_bytes,
        "engine": None if row.engine is None else to_json(row.engine),
        "launches": summary.launches,
        "launches_unusable": summary.launches_unusable,
        "samples": summary.samples,
        "latency_ms": _latency(summary),
        "launch_p50_ms": [_ms(value) for value in summary.launch_p50_ns],
        "import_ms": _ms(summary.import_ns),
        "load_ms": _ms(summary.load_ns),
        "first_inference_ms": _ms(summary.first_inference_ns),
        "throughput_per_s": summary.throughput_per_s,
        "memory": {**to_json(summary.memory), "method": summary.memory.method or None},
        "energy": None if row.energy is None else to_json(row.energy),
        "accuracy": None if row.accuracy is None else to_json(row.accuracy),
        "temperature_max_c": row.temperature_max_c,
        "clock_khz": row.clock_khz,
        "gpu_load": row.gpu_load,
        "ratios_to_fp32": {"size": row.size_ratio, "speedup": row.speedup},
        "parity": {"controller": to_json(row.controller_parity), "device": to_json(row.device_parity)},
        "facts": to_json(row.facts),
        "prepared": [to_json(each) for each in row.prepared],
        "conditions": {"before": to_json(row.before), "after": to_json(row.after)},
        "runtime_version": row.runtime_version,
        "effective": row.effective,
        "workload": to_json(row.job.workload),
        "status": row.status,
        "unusable": list(row.unusable),
        "cautions": [to_json(caution) for caution in summary.cautions],
        "warnings": list(row.warnings),
        "profile": None if row.profile is None else _profile(row.profile),
    }


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "runtime_version": profile.runtime_version,
        "started_utc": profile.started_utc,
        "method": profile.method,
        "estimated": profile.estimated,
        "repeats": profile.repeats,
        "total_ms": _ms(profile.total_ns),
        "layers_ms": _ms(profile.layers_ns),
        "unexplained_ms": _ms(profile.unexplained_ns),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "unit": layer.unit,
                "mean_ms": _ms(layer.mean_ns),
                "nodes": list(layer.nodes),
                "moves": layer.moves,
            }
            for layer in profile.layers
        ],
        "onnx": profile.onnx_digest,
        "nodes_folded": list(profile.folded),
        "nodes_unclaimed": list(profile.unclaimed),
    }


def _job(job: Job) -> dict[str, Any]:
    return {
        "model": job.model,
        "variant": job.variant,
        "runtime": job.runtime,
        "precision": job.precision,
        "device": job.device,
        "target": job.target,
    }


def _latency(summary: Summary) -> dict[str, Any]:
    return {
        "p50": _ms(summary.p50_ns),
        "p50_low": _ms(summary.p50_low_ns),
        "p50_high": _ms(summary.p50_high_ns),
        "p90": _ms(summary.p90_ns),
        "p90_low": _ms(summary.p90_low_ns),
        "p90_high": _ms(summary.p90_high_ns),
        "p99": _ms(summary.p99_ns),
        "p99_low": _ms(summary.p99_low_ns),
        "p99_high": _ms(summary.p99_high_ns),
        "min": _ms(summary.min_ns),
        "max": _ms(summary.max_ns),
        "mean": _ms(summary.mean_ns),
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        **_job(failure.job),
        "owner": failure.owner,
        "stage": failure.stage,
        "message": failure.message,
        "hint": failure.hint,
        "detail": failure.detail,
        "exit_code": failure.exit_code,
    }


def _ms(value_ns: float | None) -> float | None:
    return None if value_ns is None else value_ns / NS_PER_MS


def _finite(value: Any) -> Any:
    """The value with every number that JSON cannot hold (infinity, not-a-number) as null."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
