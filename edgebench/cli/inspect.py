"""`edgebench inspect MODEL`: what a model is."""

from __future__ import annotations

from pathlib import Path

import click

from edgebench import model
from edgebench.cli.output import emit_json, json_option, print_pairs
from edgebench.records import ModelInfo, Tensor, to_json
from edgebench.units import format_bytes, significant


@click.command()
@click.argument("model_path", metavar="MODEL", type=click.Path())
@json_option
def inspect(model_path: str, as_json: bool) -> None:
    """What MODEL (an ONNX file) is: inputs and outputs, size, operators, precision, sparsity."""
    info = model.inspect(Path(model_path))
    if as_json:
        emit_json(to_json(info))
        return
    print_pairs(_rows(info))


def _rows(info: ModelInfo) -> list[tuple[str, str]]:
    rows = [
        ("model", f"{info.name}, variant {info.variant}"),
        ("digest", info.digest),
        ("size", f"{format_bytes(info.size_bytes)} ({info.size_bytes} bytes)"),
        ("precision", info.precision),
        ("parameters", f"{info.parameters:,}"),
        ("MACs", "unknown: a shape is open" if info.macs is None else f"{info.macs:,} for one inference"),
        ("sparsity", f"{significant(100 * info.sparsity)} % of the weights are zero"),
        ("opset", ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in info.opset.items())),
        *((f"input {number}", tensor(each)) for number, each in enumerate(info.inputs)),
        *((f"output {number}", tensor(each)) for number, each in enumerate(info.outputs)),
        ("operators", ", ".join(f"{name} {count}" for name, count in _by_count(info.operators))),
    ]
    return rows + [(f"step {number + 1}", step) for number, step in enumerate(info.lineage)]


def tensor(each: Tensor) -> str:
    """One input or output as `name  float32 [1, 3, 224, 224]`."""
    return f"{each.name}  {each.dtype} [{', '.join(map(str, each.shape))}]"


def _by_count(operators: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(operators.items(), key=lambda item: (-item[1], item[0]))
