"""Plans: reading, and every cell of models x runtimes x precisions x devices as a job or a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench import targets
from edgebench.errors import ConfigError, EdgebenchError, NothingDone, UserError
from edgebench.fleet.plan import (
    Expansion,
    Plan,
    PlannedModel,
    WorkloadChanges,
    check,
    expand,
    own_precision,
    parse,
)
from edgebench.fleet.start import assignment
from edgebench.records import PRECISIONS, RUNTIMES, Device, ModelInfo, Target, Workload, replace

PLAN = """\
version: 1
models:
  - digits.onnx
  - {path: /data/other.onnx, name: other, inputs: in.npz, shapes: {x: [1, 3, 224, 224]}}
runtimes: [onnxruntime, ncnn]
precisions: [as-is, int8]
on: group:lab
workload: {launches: 9, cooldown_s: 2}
"""


def info(name: str = "digits", precision: str = "fp32", *operators: str, variant: str = "") -> ModelInfo:
    fixed = ModelInfo(
        name=name,
        variant=variant,
        digest="0" * 64,
        size_bytes=1,
        ir_version=8,
        opset={"": 17},
        inputs=(),
        outputs=(),
        parameters=1,
        macs=1,
        operators=dict.fromkeys(operators, 1),
        precision="fp32",
        sparsity=0.0,
    )
    return replace(fixed, precision=precision)


PC = Device(name="pc", target="linux-x86_64", transport="local")
PI = Device(name="pi", target="raspberry-pi-zero-2w", transport="ssh")
TARGETS = targets.all_targets()
NARROW = {  # ncnn without dynamic int8
    name: replace(
        target,
        runtimes=target.runtimes
        | {"ncnn": replace(target.runtimes["ncnn"], precisions=("fp32", "fp16", "int8"))},
    )
    for name, target in TARGETS.items()
}
DIGITS = PlannedModel(path="digits.onnx")


def cells(expansion: Expansion) -> list[tuple[str, str, str, str]]:
    return [
        (job.device, job.model, job.runtime, job.precision) for job in (each.job for each in expansion.jobs)
    ]


def test_reads_a_plan_with_paths_seen_from_the_file() -> None:
    assert parse(PLAN, "plans/nightly.yaml") == Plan(
        models=(
            PlannedModel(path="plans/digits.onnx"),
            PlannedModel(
                path="/data/other.onnx", name="other", inputs="plans/in.npz", shapes={"x": (1, 3, 224, 224)}
            ),
        ),
        runtimes=("onnxruntime", "ncnn"),
        precisions=("as-is", "int8"),
        on="group:lab",
        workload=WorkloadChanges(launches=9, cooldown_s=2.0),
    )
    short = parse("version: 1\nmodels: [a.onnx]", "plan.yaml")
    assert (short.runtimes, short.precisions, short.on) == ((), ("as-is",), "all")


REFUSALS = [
    ("models: [a]", 'plan.yaml:1: the file lacks the key "version"', "add: version: <a whole number>"),
    ("version: 1\nmodels: []", "plan.yaml:2: models is empty", "name at least one ONNX file"),
    (
        PLAN.replace("runtimes", "runtime"),
        'plan.yaml:5: unknown key "runtime" in the file',
        'did you mean "runtimes"?',
    ),
    (PLAN.replace("ncnn", "nccn"), 'plan.yaml:5: unknown runtime "nccn"', 'did you mean "ncnn"?'),
    (PLAN.replace("int8]", "int4]"), 'plan.yaml:6: unknown precision "int4"', 'did you mean "int8"?'),
    (PLAN.replace("int8]", "as-is]"), "plan.yaml:6: precisions names as-is twice", "remove one of the two"),
    (
        PLAN.replace("as-is, int8", ""),
        "plan.yaml:6: precisions is empty",
        "known: as-is, fp32, fp16, int8, int8-dynamic",
    ),
    (PLAN.replace("group:lab", '""'), "plan.yaml:7: on is empty", None),
    (
        PLAN.replace("launches: 9", "launches: 0"),
        "plan.yaml:8: workload.launches is 0",
        "write a number from 1 to 1000",
    ),
    (
        PLAN.replace("lunches", "").replace("launches", "lunches"),
        'plan.yaml:8: unknown key "lunches" in workload',
        'did you mean "launches"?',
    ),
    (
        PLAN.replace("224]", "0]"),
        "plan.yaml:4: models[1].shapes.x is 1,3,224,0, with a size that is no size",
        "every size is a whole number from 1 on",
    ),
    (
        PLAN.replace("- digits.onnx", '- ""'),
        "plan.yaml:3: models[0] has an empty path",
        "write the path of an ONNX file",
    ),
    (
        PLAN.replace("- digits.onnx", "- 3"),
        "plan.yaml:3: models[0] expects a text or a mapping (key: value), found the number 3",
        'put it in quotes: "3"',
    ),
    (
        PLAN.replace("version: 1", "version: 3"),
        "plan.yaml:1: version is 3; this edgebench reads version 1",
        "write version: 1",
    ),
]


@pytest.mark.parametrize(("text", "message", "hint"), REFUSALS, ids=range(len(REFUSALS)))
def test_refuses_in_these_words(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "plan.yaml")
    assert caught.value.message == message
    assert hint is None or caught.value.hint == hint


def test_plans_from_flags_are_checked_by_the_same_rules() -> None:
    check(Plan(models=(DIGITS,)))
    with pytest.raises(UserError) as caught:
        check(Plan(models=(DIGITS,), runtimes=("onnx-runtime",)))
    assert (caught.value.message, caught.value.hint) == (
        'unknown runtime "onnx-runtime"',
        'did you mean "onnxruntime"?',
    )


def test_every_cell_in_order_device_model_runtime_precision() -> None:
    plan = Plan(
        models=(DIGITS, PlannedModel(path="b.onnx", name="other")),
        runtimes=("ncnn", "onnxruntime"),
        precisions=("fp16", "as-is"),
    )
    expansion = expand(plan, (PI, PC), NARROW, {"digits.onnx": info(), "b.onnx": info("b", "int8-dynamic")})
    assert cells(expansion) == [
        (device, *cell)
        for device in ("pi", "pc")
        for cell in (
            ("digits", "ncnn", "fp16"),
            ("digits", "ncnn", "fp32"),
            ("digits", "onnxruntime", "fp16"),
            ("digits", "onnxruntime", "fp32"),
            ("other", "ncnn", "fp16"),
            ("other", "onnxruntime", "fp16"),
            ("other", "onnxruntime", "int8-dynamic"),
        )
    ]
    assert [(each.job.device, each.job.model, each.reason, each.hint) for each in expansion.refused] == [
        (
            name,
            "other",
            f"ncnn on target {target} does not take int8-dynamic",
            f"ncnn takes fp32, fp16, int8 there; int8-dynamic works with {others}",
        )
        for name, target, others in (
            ("pi", "raspberry-pi-zero-2w", "onnxruntime"),
            ("pc", "linux-x86_64", "onnxruntime, openvino"),
        )
    ]


def test_a_runtime_that_the_target_lacks_is_refused_with_what_it_has() -> None:
    plan = Plan(models=(DIGITS,), runtimes=("openvino",))
    expansion = expand(plan, (PI,), TARGETS, {"digits.onnx": info()})
    assert expansion.jobs == ()
    (refused,) = expansion.refused
    assert (refused.job.device, refused.job.runtime) == ("pi", "openvino")
    assert refused.reason == "target raspberry-pi-zero-2w does not offer openvino"
    assert (
        refused.hint
        == "it offers onnxruntime (fp32, fp16, int8, int8-dynamic); ncnn (fp32, fp16, int8, int8-dynamic)"
    )


def test_coreml_is_for_macs_whatever_a_target_says() -> None:
    mac = replace(PC, name="mac", target="apple-silicon-mac", transport="ssh")
    offer = {"coreml": TARGETS["apple-silicon-mac"].runtimes["coreml"]}
    linux = replace(TARGETS["linux-x86_64"], runtimes=TARGETS["linux-x86_64"].runtimes | offer)
    plan = Plan(models=(DIGITS,), runtimes=("coreml",))
    known = TARGETS | {"linux-x86_64": linux}
    expansion = expand(plan, (PC, mac), known, {"digits.onnx": info()})
    assert [each.job.device for each in expansion.jobs] == ["mac"]
    (refused,) = expansion.refused
    assert refused.reason == "coreml is a part of macOS, and devices of target linux-x86_64 run linux"
    assert refused.hint == "choose a Mac, or another runtime: onnxruntime, ncnn, openvino"


def test_compute_units_are_the_models_or_the_targets() -> None:
    mac = replace(PC, name="mac", target="apple-silicon-mac", transport="ssh")
    target = TARGETS["apple-silicon-mac"]
    coreml = replace(target.runtimes["coreml"], options={"compute_units": "cpu_and_ne"})
    known = {"apple-silicon-mac": replace(target, runtimes=target.runtimes | {"coreml": coreml})}

    def options(planned: PlannedModel, targets: dict[str, Target]) -> tuple[tuple[str, str], ...]:
        plan = Plan(models=(planned,), runtimes=("coreml",))
        (job,) = expand(plan, (mac,), targets, {"digits.onnx": info()}).jobs
        return assignment(job, targets).cell.options

    assert options(DIGITS, TARGETS) == ()
    assert options(DIGITS, known) == (("compute_units", "cpu_and_ne"),)
    assert options(replace(DIGITS, compute_units="cpu_only"), known) == (("compute_units", "cpu_only"),)
    with pytest.raises(UserError, match='unknown compute_units "gpu"'):
        check(Plan(models=(replace(DIGITS, compute_units="gpu"),)))


def test_without_runtimes_all_that_take_the_precision_are_used() -> None:
    def runtimes(precision: str) -> list[str]:
        expansion = expand(Plan(models=(DIGITS,)), (PC,), TARGETS, {"digits.onnx": info("d", precision)})
        assert expansion.refused == ()
        return [each.job.runtime for each in expansion.jobs]

    assert runtimes("fp32") == ["onnxruntime", "ncnn", "openvino"]
    assert runtimes("int8-qdq") == ["onnxruntime", "ncnn", "openvino"]
    assert runtimes("int8-dynamic") == ["onnxruntime", "ncnn", "openvino"]


def test_as_is_beside_the_same_precision_is_one_job() -> None:
    plan = Plan(models=(DIGITS,), runtimes=("ncnn",), precisions=("as-is", "fp32"))
    (planned,) = expand(plan, (PC,), TARGETS, {"digits.onnx": info()}).jobs
    assert (planned.job.precision, planned.precision, planned.model) == ("fp32", None, DIGITS)
    turned = replace(plan, precisions=("fp32", "as-is"))
    (planned,) = expand(turned, (PC,), TARGETS, {"digits.onnx": info()}).jobs
    assert planned.precision == "fp32"


def test_the_workload_is_the_targets_with_the_plans_changes() -> None:
    plan = Plan(
        models=(DIGITS,), runtimes=("ncnn",), workload=WorkloadChanges(launches=9, min_duration_s=0.5)
    )
    (on_pi,) = expand(plan, (PI,), TARGETS, {"digits.onnx": info()}).jobs
    expected = replace(TARGETS["raspberry-pi-zero-2w"].workload, launches=9, min_duration_s=0.5)
    assert on_pi.job.workload == expected
    assert on_pi.job.workload.threads == 4
    too_long = replace(plan, workload=WorkloadChanges(min_duration_s=100.0))
    with pytest.raises(UserError, match="the workload on target linux-x86_64: max_duration_s is 60, below"):
        expand(too_long, (PC,), TARGETS, {"digits.onnx": info()})


def test_changes_name_every_field_of_a_workload() -> None:
    assert WorkloadChanges.__struct_fields__ == Workload.__struct_fields__


def test_models_that_nobody_could_tell_apart_are_refused() -> None:
    plan = Plan(models=(PlannedModel(path="a/m.onnx"), PlannedModel(path="b/m.onnx")))
    infos = {"a/m.onnx": info("m", variant="v2"), "b/m.onnx": info("m", variant="v2")}
    with pytest.raises(UserError) as caught:
        expand(plan, (PC,), TARGETS, infos)
    assert caught.value.message == 'a/m.onnx and b/m.onnx are both called "m v2"'
    assert "name:" in caught.value.hint
    named = replace(plan, models=(plan.models[0], replace(plan.models[1], name="other")))
    assert expand(named, (PC,), TARGETS, infos).jobs
    variants = {**infos, "b/m.onnx": info("m", variant="v3")}
    assert expand(plan, (PC,), TARGETS, variants).jobs


def test_a_device_of_an_unknown_target_is_a_user_error() -> None:
    device = replace(PI, target="raspbery-pi-5")
    with pytest.raises(UserError, match="which is not there") as caught:
        expand(Plan(models=(DIGITS,)), (device,), TARGETS, {"digits.onnx": info()})
    assert caught.value.hint == 'did you mean "raspberry-pi-5"?'


def test_nothing_to_do_is_said() -> None:
    with pytest.raises(NothingDone) as caught:
        expand(Plan(models=(DIGITS,)), (), TARGETS, {"digits.onnx": info()})
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("precision", "operators", "measured"),
    [
        ("fp32", (), "fp32"),
        ("fp16", (), "fp16"),
        ("int8-qdq", (), "int8"),
        ("int8-dynamic", (), "int8-dynamic"),
        ("mixed", ("Conv", "QuantizeLinear", "ConvInteger"), "int8"),
        ("mixed", ("Conv", "com.microsoft::DynamicQuantizeLSTM"), "int8-dynamic"),
        ("mixed", ("MatMulInteger",), "int8-dynamic"),
        ("mixed", ("Conv", "Cast"), "fp16"),
    ],
)
def test_own_precision(precision: str, operators: tuple[str, ...], measured: str) -> None:
    assert own_precision(info("m", precision, *operators)) == measured


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(RUNTIMES), unique=True),
    st.lists(st.sampled_from(("as-is", *PRECISIONS)), unique=True, min_size=1),
    st.lists(st.sampled_from(sorted(TARGETS)), unique=True, min_size=1),
    st.sampled_from(("fp32", "int8-qdq", "mixed")),
)
def test_every_named_cell_is_a_job_or_a_refusal_exactly_once(
    runtimes: list[str], precisions: list[str], kinds: list[str], own: str
) -> None:
    plan = Plan(models=(DIGITS,), runtimes=tuple(runtimes), precisions=tuple(precisions))
    model = info("m", own)
    devices = [Device(name=kind, target=kind, transport="local") for kind in kinds]
    expansion = expand(plan, devices, TARGETS, {"digits.onnx": model})
    found = [each.job for each in expansion.jobs] + [each.job for each in expansion.refused]
    places = [(job.device, job.runtime, job.precision) for job in found]
    wanted = {own_precision(model) if each == "as-is" else each for each in precisions}
    assert len(places) == len(set(places))
    if runtimes:
        assert set(places) == {(kind, name, each) for kind in kinds for name in runtimes for each in wanted}
    assert all(
        each.job.precision in TARGETS[each.job.target].runtimes[each.job.runtime].precisions
        for each in expansion.jobs
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(PLAN)), st.text(alphabet="ab: []{}\"'\n,.-10", max_size=6), st.integers(0, 8))
def test_damaged_plans_never_end_in_a_traceback(at: int, new: str, removed: int) -> None:
    try:
        found: object = parse(PLAN[:at] + new + PLAN[at + removed :], "plan.yaml")
    except EdgebenchError as error:
        found = error
    assert isinstance(found, Plan | ConfigError)


# --- accuracy and claims --------------------------------------------------------------------------

LABELLED = """\
version: 1
models:
  - {path: digits.onnx, dataset: test.npz, labels_key: y, reference: fp32.onnx}
  - {path: other.onnx, dataset: "mine:samples", metric: "mine:score", accuracy_on_device: true}
claims: [int8 is 2x faster]
"""


def test_data_sets_are_seen_from_the_plan_and_functions_are_no_files() -> None:
    plan = parse(LABELLED, "plans/nightly.yaml")
    first, second = plan.models
    assert (first.dataset, first.labels_key, first.reference) == ("plans/test.npz", "y", "plans/fp32.onnx")
    assert (second.dataset, second.metric, second.accuracy_on_device) == ("mine:samples", "mine:score", True)
    assert plan.claims == ("int8 is 2x faster",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("metric: ", "metrik: ", 'p.yaml:4: unknown key "metrik"'),
        ('"mine:score"', "top9", 'p.yaml:4: unknown metric "top9"'),
        ("dataset: test.npz, ", "", "p.yaml:3: labels_key is given for models[0], and no dataset"),
        ("int8 is 2x faster", "int8 is quick", 'p.yaml:5: "int8 is quick" is no claim'),
    ],
)
def test_mistakes_about_accuracy_and_claims_are_told_with_their_line(old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(LABELLED.replace(old, new), "p.yaml")
    assert said in caught.value.message
    assert caught.value.hint


def test_a_model_is_compared_with_the_fp32_one_of_its_name() -> None:
    labelled = replace(DIGITS, dataset="test.npz")
    pruned = replace(labelled, path="pruned.onnx")
    infos = {"digits.onnx": info(variant="fp32"), "pruned.onnx": info(variant="pruned-50")}
    plan = Plan(models=(labelled, pruned), runtimes=("onnxruntime",))

    def references(plan: Plan) -> list[str | None]:
        return [each.model.reference for each in expand(plan, [PC], TARGETS, infos).jobs]

    assert references(plan) == [None, "digits.onnx"]
    named = replace(plan, models=(labelled, replace(pruned, reference="best.onnx")))
    assert references(named) == [None, "best.onnx"]
    assert references(replace(plan, models=(labelled, replace(pruned, name="else")))) == [None, None]
    made = [assignment(each, TARGETS).cell.labelled for each in expand(plan, [PC], TARGETS, infos).jobs]
    assert [each and each.dataset for each in made] == ["test.npz", "test.npz"]


def test_a_claim_about_what_the_plan_does_not_have_is_refused() -> None:
    plan = Plan(models=(DIGITS,), precisions=("fp32", "int8"), claims=("int8 is 2x faster than fp16",))
    with pytest.raises(UserError, match='the plan has no "fp16"'):
        expand(plan, [PC], TARGETS, {"digits.onnx": info(variant="fp32")})
