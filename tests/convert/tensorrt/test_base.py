"""Versions, boards and the operator tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.convert.tensorrt import base
from edgebench.convert.tensorrt.base import operator_table, parse_capability, parse_version
from edgebench.convert.tensorrt.operators import LIMITS, UNCHECKED
from edgebench.errors import UserError
from tests.convert.tensorrt.nets import board


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("8.2.1", (8, 2, 1)),
        ("8.2", (8, 2, 0)),
        ("8.2.1.8", (8, 2, 1)),
        ("10.3.0.30", (10, 3, 0)),
        ("8201", (8, 2, 1)),
        ("8001", (8, 0, 1)),
        ("v8502", (8, 5, 2)),
        ("v100300", (10, 3, 0)),
        ("101602", (10, 16, 2)),
        ("110000", (11, 0, 0)),
    ],
)
def test_versions_are_read_as_people_and_banners_write_them(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "8", "ten", "8.2.1; rm", "7.1.3", "7103", "8.", "-8.2"])
def test_what_is_no_version_or_too_old_is_refused(text):
    with pytest.raises(UserError) as caught:
        parse_version(text)
    assert caught.value.hint


@given(st.text(max_size=20))
def test_any_text_is_a_version_or_an_error_of_the_user(text):
    try:
        version = parse_version(text)
    except UserError:
        return
    assert version >= (8, 0, 0)


@pytest.mark.parametrize("text", ["", "8", "8.75", "sm_87", "8.7\n8.7", "a.b"])
def test_what_is_no_compute_capability_is_refused(text):
    with pytest.raises(UserError, match="compute capability"):
        parse_capability(text)


@pytest.mark.parametrize(
    ("capability", "int8"),
    [
        ((5, 3), False),
        ((6, 0), False),
        ((6, 1), True),
        ((6, 2), False),
        ((7, 2), True),
        ((8, 7), True),
        ((11, 0), True),
    ],
)
def test_gpus_with_and_without_int8(capability, int8):
    assert board("8.2.1", capability).has_int8 == int8


@pytest.mark.parametrize(
    ("version", "label", "opset", "there", "lacking"),
    [
        ("8.0.1", "8.2", 13, {"Conv", "Resize"}, {"HardSwish", "Trilu"}),
        ("8.2.1", "8.2", 13, {"Conv", "Reciprocal"}, {"LayerNormalization", "GridSample", "Mod", "OneHot"}),
        ("8.4.1", "8.4", 17, {"HardSwish"}, {"GridSample", "Trilu", "LayerNormalization"}),
        ("8.5.2", "8.5", 17, {"GridSample", "NonZero", "Trilu"}, {"LayerNormalization", "IsInf"}),
        ("8.6.2", "8.6", 17, {"LayerNormalization", "GroupNormalization"}, {"Gelu", "Mish", "CastLike"}),
        ("9.1.0", "8.6", 17, {"LayerNormalization"}, {"Gelu"}),
        ("10.3.0", "10.3", 20, {"Gelu", "Mish", "DeformConv"}, {"STFT", "Attention", "Swish"}),
        ("10.5.0", "10.3", 20, {"STFT", "HannWindow"}, {"Attention"}),
        ("10.16.2", "10.3", 23, {"STFT", "Attention", "RMSNormalization", "TensorScatter"}, {"Swish"}),
        ("11.0.0", "10.3", 24, {"Attention", "Swish"}, {"ConvInteger", "Unique"}),
    ],
)
def test_what_each_version_imports(version, label, opset, there, lacking):
    table = operator_table(parse_version(version))
    assert (table.label, table.opset_max) == (label, opset)
    assert there <= table.operators
    assert not lacking & table.operators


def test_a_table_from_another_version_says_so():
    assert operator_table((8, 2, 1)).remark == ""
    for version in ((8, 0, 1), (9, 1, 0), (10, 3, 0), (10, 16, 2), (12, 0, 0)):
        assert operator_table(version).remark


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [("Slice", "10.1.0", "10.3.0"), ("Squeeze", "10.6.0", "10.7.0"), ("CumSum", "10.7.0", "10.8.0")],
)
def test_limits_go_when_a_changelog_lifts_them(operator, before, after):
    assert operator in operator_table(parse_version(before)).limits
    assert operator not in operator_table(parse_version(after)).limits


def test_an_operator_that_came_later_is_named_with_its_version():
    assert base.first_version_with("GridSample", (8, 2, 1)) == "8.5"
    assert base.first_version_with("Attention", (10, 3, 0)) == "10.14"
    assert base.first_version_with("Unique", (8, 2, 1)) == ""


def test_every_documented_limit_is_checked_or_listed_with_its_reason():
    words = [limit.words for limit in LIMITS] + list(UNCHECKED)
    for label in ("8.2", "8.4", "8.5", "8.6", "10.0", "10.1", "10.3"):
        for operator, text in operator_table(parse_version(label)).limits.items():
            for sentence in text.split(". "):
                assert any(known in sentence for known in words), f"{label} {operator}: {sentence}"


def test_no_check_is_for_a_sentence_that_no_version_has():
    texts = "\n".join(
        text
        for label in ("8.2", "8.4", "8.5", "8.6", "10.0", "10.1", "10.3")
        for text in operator_table(parse_version(label)).limits.values()
    )
    assert all(limit.words in texts for limit in LIMITS)
    assert all(words in texts for words in UNCHECKED)


def test_the_options_of_a_conversion_name_the_board():
    made = base.board_of({"tensorrt_version": "8.2.1", "compute_capability": "5.3"})
    assert made == board("8.2.1", (5, 3))
    with pytest.raises(UserError, match="tensorrt_version and compute_capability are not known") as caught:
        base.board_of({})
    assert "--target" in caught.value.hint
