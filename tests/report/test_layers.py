"""Where the time goes, as a table: sorted, bounded, honest about what it is, and clean whatever names say."""

from __future__ import annotations

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from edgebench.records import LayerTime, Profile, replace
from edgebench.report import layers, markdown, terminal
from edgebench.report.base import Report
from edgebench.report.build import build
from edgebench.report.document import document
from tests.commands import SCHEMA
from tests.report import fixtures


def layer(name: str, mean_ns: int, **fields: object) -> LayerTime:
    return LayerTime(name=name, kind="Conv", mean_ns=mean_ns, unit="CPU", **fields)  # type: ignore[arg-type]


def profile(*made: LayerTime, total_ns: int | None = 1_000_000, **fields: object) -> Profile:
    plain = Profile(runtime_version="1.22", method="a clock", repeats=30, layers=made, total_ns=total_ns)
    return replace(plain, **fields)


def report(made: Profile) -> Report:
    measurement = fixtures.measurement()
    return build(fixtures.run([measurement.job]), [measurement], [], {measurement.id: made})


SOME = profile(
    layer("small", 100_000, nodes=("relu",)),
    layer("large", 600_000, nodes=("conv", "bn", "relu2")),
    layer("copy", 50_000, moves=True),
    layer("mystery", 50_000),
    folded=("constant",),
    unclaimed=("lost",),
)


def test_the_slowest_layer_comes_first_and_every_share_is_of_the_whole() -> None:
    lines = layers.lines(SOME)
    assert [(line.share, line.kind, line.nodes) for line in lines] == [
        ("60.0", "Conv", "conv, bn, relu2"),
        ("10.0", "Conv", "relu"),
        ("5.0", "Conv", "none: moves values"),
        ("5.0", "Conv", "unknown (mystery)"),
        ("20.0", "between layers", ""),
    ]
    assert lines[0].ms == "0.600"


def test_many_layers_become_one_line() -> None:
    made = profile(*(layer(f"l{k}", 1000 + k, nodes=(f"n{k}",)) for k in range(50)), total_ns=None)
    lines = layers.lines(made)
    assert len(lines) == layers.LAYERS_SHOWN + 1
    assert lines[-1].kind == "40 other layers"
    assert sum(float(line.share) for line in lines) == pytest.approx(100, abs=1)


def test_layers_that_ran_side_by_side_never_make_more_than_the_whole() -> None:
    lines = layers.lines(profile(layer("a", 900), layer("b", 900), total_ns=1000))
    assert [line.share for line in lines] == ["50.0", "50.0"]


def test_an_empty_profile_is_no_obstacle() -> None:
    assert layers.lines(profile(total_ns=0)) == []
    assert layers.lines(profile(total_ns=None)) == []


def test_what_must_be_known_is_said() -> None:
    text = terminal.render(report(replace(SOME, estimated=True)), width=160, colour=False)
    assert "Where the time goes: digits fp32" in text
    assert "1.00 ms an inference, 4 layers, 30 inferences; runtime 1.22" in text
    assert "a clock" in text
    assert "are slower than the timed launches" in text
    assert "estimated, not measured" in text
    assert "computed when the model is loaded: constant" in text
    assert "no layer is known to compute: lost" in text


@pytest.mark.parametrize("width", [20, 40, 59, 60, 80, 120])
def test_no_number_is_cut_and_every_line_fits(width: int) -> None:
    text = terminal.render(report(SOME), width=width, colour=False)
    assert all(cell_len(line) <= width for line in text.splitlines())
    joined = " ".join(text.split())
    for number in ("60.0", "0.600", "10.0", "0.100", "20.0", "0.200"):
        assert number in joined


def test_markdown_has_the_same_table() -> None:
    text = markdown.render(report(SOME))
    assert "| % | ms | unit | layer | ONNX nodes |" in text
    assert "| 60.0 | 0.600 | CPU | Conv | conv, bn, relu2 |" in text


def test_the_document_follows_the_schema() -> None:
    import json

    made = document(report(SOME))
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(made)
    shown = made["measurements"][0]["profile"]
    assert (shown["total_ms"], shown["layers_ms"], shown["unexplained_ms"]) == (1.0, 0.8, 0.2)
    assert shown["layers"][1] == {
        "name": "large",
        "kind": "Conv",
        "unit": "CPU",
        "mean_ms": 0.6,
        "nodes": ["conv", "bn", "relu2"],
        "moves": False,
    }
    assert shown["nodes_folded"] == ["constant"]
    assert document(build(fixtures.run(), [fixtures.measurement()], []))["measurements"][0]["profile"] is None


@pytest.mark.parametrize("status", ["emulated", "invalid"])
def test_what_is_withheld_of_a_measurement_is_withheld_of_its_profile(status: str) -> None:
    run, measurements, failures = fixtures.troubled()
    made = build(run, measurements, failures, {each.id: SOME for each in measurements})
    (row,) = [each for each in made.rows if each.status == status]
    assert row.profile is None


@given(st.text(max_size=40), st.sampled_from([30, 80]))
def test_no_name_of_a_layer_or_node_reaches_the_terminal_as_it_is(text: str, width: int) -> None:
    made = profile(replace(layer(text, 5, nodes=(text, "n")), kind=text, unit=text), method=text or "m")
    shown = terminal.render(report(made), width=width, colour=False)
    assert "\x1b" not in shown
    assert all(line.isprintable() for line in shown.splitlines())
    markdown.render(report(made))
