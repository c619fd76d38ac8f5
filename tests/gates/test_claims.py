"""Claims: a small closed grammar, and verdicts with numbers in every place, from rows with known truth."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.budgets import Subject
from edgebench.errors import UserError
from edgebench.gates.base import LaunchFigures, Observed
from edgebench.gates.claims import FORMS, ClaimVerdict, Expected, check, judge, names_of, parse
from edgebench.records import Accuracy, replace
from edgebench.units import significant

# --- grammar --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what", "name", "than", "wanted"),
    [
        ("int8 is 4x smaller than fp32", "size", "int8", "fp32", 4),
        ("int8 is 4x smaller", "size", "int8", "fp32", 4),
        ("pruned-50 is 30 % smaller than int8-static", "size", "pruned-50", "int8-static", 1 / 0.7),
        ("  int8  is 2.5 times  faster ", "speed", "int8", "fp32", 2.5),
        ("fp16 is 30% faster than fp32", "speed", "fp16", "fp32", 1.3),
        ("int8 is 150 % faster than fp32", "speed", "int8", "fp32", 2.5),
        ("int8 uses 2× less memory than fp32", "memory", "int8", "fp32", 2),
        ("int8 uses 1.5x less energy than fp16", "energy", "int8", "fp16", 1.5),
        ("int8 uses 50 % less energy", "energy", "int8", "fp32", 2),
        ("pruned-50->int8 is 3 x faster", "speed", "pruned-50→int8", "fp32", 3),
        ("accuracy drop of int8 < 1 %", "accuracy", "int8", "", 0.01),
        ("accuracy drop of int8<0.5pp", "accuracy", "int8", "", 0.005),
        ("int8 loses less than 1 % accuracy", "accuracy", "int8", "", 0.01),
    ],
)
def test_what_a_claim_says(text: str, what: str, name: str, than: str, wanted: float) -> None:
    claim = parse(text)
    assert (claim.text, claim.what, claim.name, claim.than) == (text, what, name, than)
    assert claim.wanted == pytest.approx(wanted)


def test_every_form_that_is_offered_is_valid() -> None:
    assert [parse(form).name for form in FORMS] == ["int8"] * len(FORMS)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("int8 is four times smaller than fp32", "int8 is 4x smaller than fp32"),
        ("int8 is 2x quicker than fp32", "int8 is 2x faster than fp32"),
        ("int8 uses half the memory of fp32", "less memory than fp32"),
        ("int8 loses 1 % accuracy", "int8 loses less than 1 % accuracy"),
        ("accuracy drop of int8 <= 1 %", "accuracy drop of int8 < 1 %"),
        ("it is just great", "write for example"),
        ("", "write for example"),
        ("int8 is 100 % smaller than fp32", "75 % smaller"),
        ("int8 is 0.5x smaller than fp32", "2x smaller"),
        ("int8 is 2x faster than int8", "name another"),
        ("accuracy drop of int8 < 2x", "accuracy drop of int8 < 1 %"),
        ("int8 is 2x faster than fp32\x1b[31m", "int8 is 2x faster"),
        ("x" * 5000, "write for example"),
    ],
)
def test_other_sentences_get_the_nearest_form(text: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert hint in caught.value.hint
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


names = st.from_regex(r"\A[a-z][a-z0-9.-]{0,20}\Z")
numbers = st.integers(100, 99_999).map(lambda number: number / 100)


@given(name=names, than=names, number=numbers, data=st.data())
def test_every_sentence_of_the_grammar_is_understood(
    name: str, than: str, number: float, data: st.DataObject
) -> None:
    verb, ending = data.draw(
        st.sampled_from(
            [("is", "smaller"), ("is", "faster"), ("uses", "less memory"), ("uses", "less energy")]
        )
    )
    unit = data.draw(st.sampled_from(["x", " x", "×", " times"]))
    text = f"{name} {verb} {number}{unit} {ending}" + (f" than {than}" if name != than else "")
    if name == "fp32" == (than if name != than else "fp32"):
        return
    claim = parse(text)
    assert (claim.name, claim.wanted) == (name, number)
    assert claim.than == (than if name != than else "fp32")


@given(st.text(max_size=200))
def test_any_text_is_a_claim_or_the_users_mistake(text: str) -> None:
    try:
        assert parse(text).wanted >= 0
    except UserError as error:
        if not error.hint:
            raise


def subject(
    variant: str = "fp32", precision: str = "fp32", runtime: str = "ncnn", device: str = "pi"
) -> Subject:
    return Subject(
        target="raspberry-pi-5-8gb",
        device=device,
        groups=(),
        model="net",
        variant=variant,
        runtime=runtime,
        precision=precision,
    )


@pytest.mark.parametrize(
    ("variant", "precision", "known"),
    [
        ("fp32", "fp32", ("fp32→fp32", "fp32", "fp32")),
        ("fp32", "int8", ("fp32→int8", "int8")),
        ("fp32", "int8-dynamic", ("fp32→int8-dynamic", "int8-dynamic")),
        ("int8-static", "int8", ("int8-static→int8", "int8-static", "int8")),
        ("pruned-50", "fp32", ("pruned-50→fp32", "pruned-50")),
        ("pruned-50", "int8", ("pruned-50→int8", "pruned-50→int8", "pruned-50")),
        ("", "fp16", ("fp16→fp16", "fp16", "fp16")),
    ],
)
def test_what_a_cell_may_be_called(variant: str, precision: str, known: tuple[str, ...]) -> None:
    assert names_of(subject(variant, precision)) == known


def test_names_that_the_plan_does_not_have() -> None:
    planned = [subject(), subject(precision="int8")]
    check(parse("int8 is 2x faster than fp32"), planned)
    with pytest.raises(UserError, match='the plan has no "int9"') as caught:
        check(parse("int9 is 2x faster"), planned)
    assert 'did you mean "int8"' in caught.value.hint
    with pytest.raises(UserError, match='has no "fp16"'):
        check(parse("int8 is 2x faster than fp16"), planned)


# --- verdicts -------------------------------------------------------------------------------------


def cell(
    of: Subject,
    ms: float,
    *,
    size: int = 1000,
    peak: int | None = 100,
    launches: int = 10,
    session: str = "s",
    noise: float = 0.004,
) -> Observed:
    chance = random.Random(f"{of} {ms}")
    made = tuple(
        LaunchFigures(
            place=place,
            n=200,
            p50_ns=ms * 1e6 * math.exp(chance.gauss(0, noise)),
            energy_mj=ms * math.exp(chance.gauss(0, noise)),
            peak_bytes=None if peak is None else peak + place,
        )
        for place in range(launches)
    )
    return Observed(subject=of, session=session, launches=made, artifact_bytes=size)


def expected(*cells: Observed) -> list[Expected]:
    return [Expected(each.subject, each) for each in cells]


FP32 = cell(subject(), 10.0, size=4000, peak=400)
INT8 = cell(subject(precision="int8"), 4.0, size=1024, peak=180)


def one(text: str, *cells: Expected | Observed) -> ClaimVerdict:
    made = [each if isinstance(each, Expected) else Expected(each.subject, each) for each in cells]
    (verdict,) = judge([parse(text)], made)
    return verdict


@pytest.mark.parametrize(
    ("text", "verdict", "value"),
    [
        ("int8 is 3.9x smaller than fp32", "verified", 4000 / 1024),
        ("int8 is 4x smaller than fp32", "refuted", 4000 / 1024),
        ("int8 is 70 % smaller", "verified", 4000 / 1024),
        ("int8 is 2x faster than fp32", "verified", 2.5),
        ("int8 is 3x faster than fp32", "refuted", 2.5),
        ("int8 is 2.5x faster than fp32", "inconclusive", 2.5),
        ("int8 is 100 % faster", "verified", 2.5),
        ("int8 uses 2x less memory", "verified", 409 / 189),
        ("int8 uses 60 % less memory", "refuted", 409 / 189),
        ("int8 uses 2x less energy than fp32", "verified", 2.5),
        ("fp32 is 2x faster than int8", "refuted", 0.4),
    ],
)
def test_claims_are_judged_by_numbers(text: str, verdict: str, value: float) -> None:
    found = one(text, FP32, INT8)
    assert found.verdict == verdict
    assert found.value == pytest.approx(value, rel=0.01)
    assert (found.device, found.model, found.runtime) == ("pi", "net", "ncnn")
    if found.what in ("speed", "energy"):
        assert found.ci_low is not None
        assert found.ci_high is not None
        assert found.ci_low < value < found.ci_high
        assert "95 % interval" in found.reason
    else:
        assert found.ci_low is None
    assert f"{significant(found.value or 0)}x " in found.reason


def test_between_two_sessions_the_interval_is_wider() -> None:
    other = replace(FP32, session="yesterday")
    near, far = (one("int8 is 2x faster", each, INT8) for each in (FP32, other))
    assert near.ci_high is not None
    assert far.ci_high is not None
    assert far.ci_high > near.ci_high * 1.1
    assert "between two sessions" in far.reason
    assert far.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (Expected(subject(), None, "link dropped"), "fp32 was not measured: link dropped"),
        (Expected(subject(), None), "did not come to it"),
        (cell(subject(), 10.0, launches=4), "fp32 has 4 valid launches; 5 are the least"),
        (
            replace(FP32, launches=(), invalid=5, invalid_reason="throttled"),
            "no launch of fp32 is valid: throttled",
        ),
        (replace(FP32, batch=4), "batch"),
        (
            replace(FP32, launches=(*FP32.launches[1:], replace(FP32.launches[0], p50_ns=None))),
            "not known of every launch",
        ),
    ],
)
def test_what_is_missing_is_inconclusive_with_the_reason(changed: Expected | Observed, said: str) -> None:
    found = one("int8 is 2x faster than fp32", changed, INT8)
    assert (found.verdict, found.value) == ("inconclusive", None)
    assert said in found.reason


def test_memory_that_is_not_known_is_inconclusive() -> None:
    unknown = cell(subject(), 10.0, peak=None)
    assert "not known" in one("int8 uses 2x less memory", unknown, INT8).reason
    few = cell(subject(), 10.0, peak=400, launches=2)
    assert "3 are the least" in one("int8 uses 2x less memory", few, INT8).reason


def test_every_place_has_its_own_verdict_and_others_none() -> None:
    slow = cell(subject(precision="int8", device="zero"), 9.0)
    places = expected(
        FP32, INT8, cell(subject(device="zero"), 10.0), slow, cell(subject(runtime="openvino"), 3.0)
    )
    found = judge([parse("int8 is 2x faster")], places)
    assert [(each.device, each.runtime, each.verdict) for each in found] == [
        ("pi", "ncnn", "verified"),
        ("zero", "ncnn", "refuted"),
    ]


def test_a_name_of_two_cells_is_ambiguous() -> None:
    two = [cell(subject(variant, "int8"), 4.0) for variant in ("int8-static", "int8-kl")]
    found = one("int8 is 2x faster", FP32, *two)
    assert found.reason == "2 cells are called int8: say which, as int8-static→int8, int8-kl→int8"
    assert one("int8-kl is 2x faster", FP32, *two).verdict == "verified"
    assert one("int8-kl->int8 is 2x faster", FP32, *two).verdict == "verified"


REPORT = Accuracy(
    metric="top1",
    n=500,
    value=0.994,
    dataset="d",
    reference=0.996,
    drop=0.002,
    drop_low=-0.004,
    drop_high=0.008,
)


@pytest.mark.parametrize(
    ("limit", "changes", "verdict"),
    [
        ("1 %", {}, "verified"),
        ("0.5 %", {}, "inconclusive"),
        ("0.1 %", {"drop": 0.02, "drop_low": 0.01, "drop_high": 0.03}, "refuted"),
        ("50 %", {"drop_low": None, "drop_high": None}, "inconclusive"),
    ],
)
def test_lost_accuracy(limit: str, changes: dict[str, object], verdict: str) -> None:
    measured = replace(INT8, accuracy_report=replace(REPORT, **changes))
    found = one(f"accuracy drop of int8 < {limit}", FP32, measured)
    assert found.verdict == verdict
    assert found.value == changes.get("drop", 0.002)
    assert one(f"int8 loses less than {limit} accuracy", FP32, measured).verdict == verdict


def test_accuracy_that_was_not_measured_is_inconclusive() -> None:
    found = one("accuracy drop of int8 < 1 %", FP32, INT8)
    assert found.verdict == "inconclusive"
    assert "name a dataset" in found.reason
