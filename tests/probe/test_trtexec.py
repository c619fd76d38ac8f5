"""What trtexec prints and exports, read from recordings of each version; nothing crashes the readers."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.probe import engines, exports, facts, npy, trtexec
from edgebench.probe.trtexec import Log, failure, filled, parse_banner, read_plan
from edgebench.probe.wire import ProbeError
from tests.probe import trt_bench

RECORDED = Path(__file__).parent / "recorded" / "trtexec"


def log(name: str) -> Log:
    return Log().read((RECORDED / f"{name}.log").read_text())


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


# --- logs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "version", "state"),
    [
        ("8.0.1-composed", "8.0.1", "PASSED"),
        ("8.2.1-nano", "8.2.1", "PASSED"),
        ("8.2.1-qdq-without-int8", "8.2.1", "FAILED"),
        ("8.4.3-composed", "8.4.3", "PASSED"),
        ("8.5.2-composed", "8.5.2", "PASSED"),
        ("10.3.0-jetson", "10.3.0", "PASSED"),
        ("10.3.0-unknown-option", "10.3.0", "FAILED"),
        ("10.16.2-composed", "10.16.2", "PASSED"),
        ("10.16.2-orin", None, None),
        ("11.0.0-composed", "11.0.0", "PASSED"),
    ],
)
def test_version_and_state_of_each_version(name: str, version: str | None, state: str | None) -> None:
    read = log(name)
    assert (read.version, read.state) == (version, state)


def test_a_build_on_a_nano() -> None:
    read = log("8.2.1-nano")
    assert read.texts == {"device": "NVIDIA Tegra X1", "compute_capability": "5.3"}
    assert read.figures["build_s"] == 184.708
    assert read.figures["build_peak_gpu_mib"] == 1112
    assert read.figures["clock_ghz"] == 0.9216
    assert read.engine_bytes() == 266 << 20
    assert read.errors == []
    (warning,) = read.warnings
    assert warning.endswith("Attempting to cast down to INT32.")


def test_the_header_of_an_orin_without_a_clock() -> None:
    read = log("10.16.2-orin")
    assert read.texts == {"device": "Orin", "compute_capability": "8.7"}
    assert read.figures["clock_ghz"] == 1.173
    assert read.engine_bytes() is None


def test_an_engine_of_10_says_its_two_sizes() -> None:
    read = log("10.16.2-composed")
    assert read.engine_bytes() == int(6.75 * 1024**2)
    assert read.figures["load_s"] == 0.012


def test_lines_after_passed_do_not_hide_it_and_the_unstable_gpu_is_told() -> None:
    read = log("8.4.3-composed")
    assert read.banners[-1].startswith("&&&& PASSED")
    assert "coefficient of variance = 5.66545%" in (read.unstable() or "")
    assert log("8.0.1-composed").unstable() is None


def test_an_unknown_option_is_a_fault_of_the_plan() -> None:
    error = failure("model_load", 1, log("10.3.0-unknown-option"), "&&&& PASSED", ["trtexec", "--buildOnly"])
    assert error.kind == "bad_request"
    assert error.message == "trtexec 10.3.0 does not know the option --workspace"
    assert "[E] Unknown option: --buildOnly" in error.detail


def test_the_first_error_is_the_message_and_all_stand_in_the_detail() -> None:
    error = failure("model_load", 1, log("8.2.1-qdq-without-int8"), "&&&& PASSED", ["trtexec"])
    assert error.kind == "model_load"
    assert "layers require hardware with Int8 support" in error.message
    assert "[10/" not in error.message
    assert "[E] [TRT] 9: [standardEngineBuilder.cpp::buildEngine::1631]" in error.detail


def test_status_0_without_passed_is_a_failure() -> None:
    error = failure("inference", 0, Log().read("[01/01/1970-00:00:00] [I] nothing"), "&&&& PASSED", ["t"])
    assert 'status 0, but without "&&&& PASSED"' in error.message


@pytest.mark.parametrize("words", ["OutOfMemory (no further information)", "Cuda Runtime (out of memory)"])
def test_a_full_memory_has_its_own_kind(words: str) -> None:
    line = f"[01/01/1970-00:00:00] [E] [TRT] 2: [allocator.cpp::allocate::20] Error Code 2: {words}"
    assert failure("model_load", 1, Log().read(line), "&&&& PASSED", ["t"]).kind == "out_of_memory"


@pytest.mark.parametrize(
    ("number", "version"),
    [
        (8001, "8.0.1"),
        (8201, "8.2.1"),
        (8502, "8.5.2"),
        (100300, "10.3.0"),
        (101602, "10.16.2"),
        (7103, "7.1.3"),
    ],
)
def test_numbers_of_banners(number: int, version: str) -> None:
    banner = parse_banner(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] [b12] # trtexec --help")
    assert banner == ("RUNNING", version)


@given(st.text() | st.lists(st.sampled_from(recorded("8.2.1-nano.log").splitlines())).map("\n".join))
def test_no_log_crashes_the_reader(text: str) -> None:
    read = Log().read(text)
    read.engine_bytes()
    read.unstable()
    assert isinstance(failure("failed", 1, read, "&&&& PASSED", ["t"]), ProbeError)


def test_a_log_without_end_does_not_fill_the_memory() -> None:
    read = Log()
    for number in range(3000):
        read.take(f"[01/01/1970-00:00:00] [E] {number} {'x' * 5000}")
    assert len(read.errors) <= trtexec.MAX_LINES
    assert max(map(len, read.errors)) <= trtexec.MAX_LINE_CHARACTERS
    assert " [E] 0 " in read.errors[0]


# --- times ---------------------------------------------------------------------------------------


def test_times_of_10_16_are_all_samples() -> None:
    assert exports.parse_times(recorded("times-10.16.json"), "computeMs", None).samples_ns == [873_472]


def test_times_of_8_2_hold_the_warm_up() -> None:
    times = exports.parse_times(recorded("times-8.2-composed.json"), "computeMs", 200.0)
    assert times.warmup_ns == [120_000_000, 90_100_000]
    assert times.samples_ns == [90_018_300]


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "[1]", "[{}]", '[{"computeMs": 0}]', '[{"computeMs": "1"}]', '[{"computeMs": 1e300}]'],
)
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        exports.parse_times(text, "computeMs", None)


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("name", "computeMs", "averageMs", "Layers", "Name")), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.text() | json_values.map(json.dumps), st.none() | st.floats(0, 1000))
def test_no_text_crashes_a_reader_of_json(text: str, warmup_ms: float | None) -> None:
    for read in (
        lambda: exports.parse_times(text, "computeMs", warmup_ms),
        lambda: exports.parse_profile(text),
        lambda: exports.parse_layers(text, ["a"]),
    ):
        with contextlib.suppress(ValueError):
            read()


def test_deep_nesting_is_a_value_error() -> None:
    for read in (exports.parse_profile, lambda text: exports.parse_times(text, "computeMs", None)):
        with pytest.raises(ValueError, match=r"."):
            read("[" * 100_000)
    assert exports.parse_layers("[" * 100_000, []) == {}


# --- outputs -------------------------------------------------------------------------------------


def binding(name: str, dtype: str, *shape: int, model: str = "") -> dict[str, Any]:
    return {"name": name, "dtype": model or dtype, "binding_dtype": dtype, "shape": list(shape)}


def test_bare_nan_and_inf_and_integers_widened_again() -> None:
    content = (RECORDED / "outputs-nan-composed.json").read_bytes()
    wanted = [binding("y", "float32", 1, 4), binding("count", "int32", 2, model="int64")]
    found = exports.parse_outputs(content, wanted)
    y = np.frombuffer(found["y"].data, "<f4")
    assert y[0] == np.float32(0.123457)
    assert y[1] == -np.inf
    assert math.isnan(y[2])
    assert found["count"].dtype == "int64"
    assert np.frombuffer(found["count"].data, "<i8").tolist() == [7, -(2**31)]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_types_of_one_byte_are_printed_as_characters(dtype: str) -> None:
    values = np.arange(256).astype(np.uint8).astype(dtype)
    printed = b", ".join(bytes([byte]) for byte in values.tobytes())
    content = b'[\n  { "name" : "y"\n  , "dimensions" : "256"\n  , "values" : [ ' + printed + b" ]\n  }\n]\n"
    found = exports.parse_outputs(content, [binding("y", dtype, 256)])
    assert found["y"].data == values.tobytes()


def test_a_name_that_is_not_escaped() -> None:
    content = b'[\n  { "name" : "a "b" \\ c"\n  , "dimensions" : "1"\n  , "values" : [ 2 ]\n  }\n]\n'
    found = exports.parse_outputs(content, [binding('a "b" \\ c', "float32", 1)])
    assert np.frombuffer(found['a "b" \\ c'].data, "<f4").tolist() == [2.0]


def test_a_scalar_has_no_dimensions() -> None:
    content = b'[\n  { "name" : "y"\n  , "dimensions" : ""\n  , "values" : [ 1.5 ]\n  }\n]\n'
    assert exports.parse_outputs(content, [binding("y", "float32")])["y"].shape == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", 'no output "y"'),
        (
            b'[ { "name" : "y"\n , "dimensions" : "3"\n , "values" : [ 1, 2, 3 ] } ]',
            "the dimensions 3, not 2",
        ),
        (b'[ { "name" : "y"\n , "dimensions" : "2"\n , "values" : [ 1 ] } ]', "1 values where 2"),
        (b'[ { "name" : "y"\n , "dimensions" : "2"\n , "values" : [ 1, x ] } ]', "a value is no float32"),
        (b'[ { "name" : "y"\n , "dimensions" : "2"\n , "valu', "no values"),
        (b'[ { "name" : "y"\n , "dimensions" : "2"\n , "values" : [ 1, 2', "do not end"),
    ],
)
def test_outputs_that_cannot_be_read_say_why(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        exports.parse_outputs(content, [binding("y", "float32", 2)])


@given(
    st.binary()
    | st.lists(
        st.sampled_from([b'{ "name" : "y"', b"\n", b', "dimensions" : "2"', b', "values" : [', b"1", b"]"])
    ).map(b"".join),
    st.sampled_from(sorted(npy.FORMATS)),
)
def test_no_bytes_crash_the_reader_of_outputs(content: bytes, dtype: str) -> None:
    with contextlib.suppress(ValueError):
        exports.parse_outputs(content, [binding("y", dtype, 2)])


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_six_digits_come_back_as_six_digits(values: list[float]) -> None:
    printed = ", ".join(f"{value:g}" for value in values).encode()
    content = b'[\n  { "name" : "y"\n  , "dimensions" : "%d"\n  , "values" : [ %s ]\n  }\n]\n'
    found = exports.parse_outputs(content % (len(values), printed), [binding("y", "float32", len(values))])
    read = np.frombuffer(found["y"].data, "<f4").astype(np.float64)
    np.testing.assert_allclose(read, np.array(values), rtol=1e-5, atol=1e-44)


def test_many_values_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PIECE_BYTES", 10)
    values = np.arange(-500, 500, dtype=np.float32) / 8
    printed = ", ".join(f"{value:g}" for value in values).encode()
    content = b'[\n  { "name" : "y"\n  , "dimensions" : "1000"\n  , "values" : [ %s ]\n  }\n]\n' % printed
    found = exports.parse_outputs(content, [binding("y", "float32", 1000)])
    assert np.array_equal(np.frombuffer(found["y"].data, "<f4"), values)


# --- layers --------------------------------------------------------------------------------------


def test_a_profile_begins_with_a_count_that_is_no_layer() -> None:
    assert exports.parse_profile(recorded("profile-10.16.json")) == ([("Conv_0 + Relu_1", 111_616)], 1)


def test_a_profile_with_names_that_break_its_json() -> None:
    layers, runs = exports.parse_profile(recorded("profile-8.2-unescaped-composed.json"))
    assert runs == 12
    assert layers == [('Conv "first" \\ part', 1_000_000), ("PWN(PWN(Sigmoid_1), Mul_2)", 2)]


def test_layers_with_details_name_their_kind_and_nodes() -> None:
    known = ["Conv_0", "Relu_1", "/a/MatMul", "/a/Softmax", "/b/Add"]
    found = exports.parse_layers(recorded("layers-detailed-composed.json"), known)
    assert found["Conv_0 + Relu_1"] == ("CaskConvolution", ["Conv_0", "Relu_1"])
    assert found["{ForeignNode[/a/MatMul.../b/Add]}"] == ("Myelin", ["/a/MatMul", "/a/Softmax", "/b/Add"])
    reformat = found["Reformatting CopyNode for Input Tensor 0 to Conv_0 + Relu_1"]
    assert reformat.kind == "Reformat"


def test_layers_that_are_bare_names() -> None:
    found = exports.parse_layers(recorded("layers-names-composed.json"), ["Sigmoid_1", "Mul_2", "Conv_0"])
    assert found["PWN(PWN(Sigmoid_1), Mul_2)"] == ("unknown", ["Sigmoid_1", "Mul_2"])
    assert found["Conv_0 + Relu_1"].nodes == ["Conv_0"]


def test_nothing_is_guessed_about_nodes() -> None:
    assert exports.nodes_of("copy of something", "", ["Conv_0"]) == []
    assert exports.nodes_of("{ForeignNode[a...c]}", "", ["a", "b", "c"]) == ["a", "c"]
    reformat = "Reformatting CopyNode for Input Tensor 0 to Conv_0 + Relu_1"
    assert exports.nodes_of(reformat, "", ["Conv_0", "Relu_1"]) == []


# --- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", trt_bench.NUMBERS)
def test_the_controllers_plans_are_read(tmp_path: Path, version: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(trt_bench.plan(version))
    plan = read_plan(str(path))
    assert plan["tensorrt"] == version
    assert (
        filled(
            plan["measure"],
            {"engine": "/e", "warmup_ms": 5, "duration_s": 1, "iterations": 3, "times": "t", "input0": "i"},
        )[0]
        == "--loadEngine=/e"
    )


@given(json_values)
def test_what_is_no_plan_is_refused(value: Any) -> None:
    path = f"/tmp/edgebench-plan-{os.getpid()}.json"
    Path(path).write_text(json.dumps(value))
    with pytest.raises(ProbeError, match=r"plan\.json"):
        read_plan(path)
    os.remove(path)


def test_a_placeholder_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ProbeError, match="asks for"):
        filled(["--x={secret}"], {})


RECORDED_FACTS = Path(__file__).parent / "recorded"


@pytest.mark.parametrize("board", ["jetson-nano", "jetson-orin-nano", "linux-x86_64"])
def test_a_key_names_all_that_an_engine_fits(board: str) -> None:
    told = facts.read(str(RECORDED_FACTS / board))
    plan = json.loads(trt_bench.plan("8.2.1"))
    key = engines.complete_key(plan["cache_key"], told)
    assert set(key) == {
        *("model", "tensorrt", "compute_capability", "flags", "gpu", "l4t", "jetpack", "power_mode")
    }
    assert not [value for value in key.values() if "{" in value]
    assert key["l4t"] == told["versions"].get("l4t", "unknown")
    assert key["jetpack"] == told["versions"].get("jetpack", "unknown")
    assert key["power_mode"] == (told["power_mode"] or "unknown")
    if board == "jetson-nano":
        assert key["power_mode"] == "5W"
        assert key["gpu"].startswith("NVIDIA tegra210")
    assert set(key) - set(engines.timing_key(key)) == {"model", "flags"}


# --- arrays --------------------------------------------------------------------------------------


@given(
    st.sampled_from(sorted(set(npy.FORMATS) - {"bool"})),
    st.lists(st.integers(0, 3), max_size=3),
)
def test_numpy_reads_what_was_written_and_the_other_way_round(dtype: str, shape: list[int]) -> None:
    path = f"/tmp/edgebench-npy-{os.getpid()}.npy"
    array = np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
    npy.write(path, npy.Array(dtype, shape, array.tobytes()))
    back = np.load(path)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    np.save(path, array)
    assert npy.read(path) == (dtype, shape, array.tobytes())
    os.remove(path)


def test_int64_goes_into_int32_or_is_named(tmp_path: Path) -> None:
    value = npy.Array("int64", [2], np.array([5, -7], dtype="<i8").tobytes())
    assert np.frombuffer(npy.converted(value, "int32").data, "<i4").tolist() == [5, -7]
    large = npy.Array("int64", [1], np.array([2**40], dtype="<i8").tobytes())
    with pytest.raises(ValueError, match="1099511627776 does not fit into int32"):
        npy.converted(large, "int32")


@given(
    st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"\x93NUMPY\x01\x00\x46\x00" + tail)
)
def test_what_is_no_npy_is_a_value_error(content: bytes) -> None:
    path = f"/tmp/edgebench-npy-{os.getpid()}.npy"
    Path(path).write_bytes(content)
    try:
        with pytest.raises(ValueError):
            npy.header(path)
    finally:
        os.remove(path)
