"""Recipes: what is understood, and that everything else is refused with its line and the nearest name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.compress import recipe
from edgebench.compress.presets import Processor, preset, processor, step_of
from edgebench.errors import ConfigError, UserError
from edgebench.records import RUNTIMES

GOOD = """\
version: 1
data: {calibration: cal.npz, validation: val.npz, test: /else/test.npz}
seed: 7
variants:
  pruned: [{prune: {share: 0.3}}]
  all:
    - from: pruned
    - cluster
    - int8: {max_drop: 1 pp, for: "onnxruntime,ncnn"}
  half: [fp16]
"""


def test_a_recipe_is_ordered_steps_under_names() -> None:
    made = recipe.parse(GOOD, "folder/recipe.yaml")
    assert [each.name for each in made.variants] == ["pruned", "all", "half"]
    assert (made.data.calibration, made.data.test, made.seed) == ("folder/cal.npz", "/else/test.npz", 7)
    everything = made.variants[1]
    assert [each.step.name for each in everything.steps] == ["prune", "cluster"]
    assert everything.steps[0] == made.variants[0].steps[0] or everything.steps[0].options == (
        made.variants[0].steps[0].options
    )
    assert everything.int8 is not None
    assert everything.int8.named_runtimes() == ("onnxruntime", "ncnn")
    assert everything.int8.text() == "max_drop=1 pp"
    assert [each.name for each in made.chosen(["half"])] == ["half"]
    with pytest.raises(UserError, match='no variant "hal"') as caught:
        made.chosen(["hal"])
    assert "half" in caught.value.hint


BAD = {
    "  a: [{prun: {share: 0.5}}]": (4, 'no compression step "prun"', '"prune"'),
    "  a: [{prune: {shar: 0.5}}]": (4, 'no option "shar"', '"share"'),
    "  a: [{prune: {share: 2}}]": (4, "share: Expected `float` < 1", "share"),
    "  a: [{prune: {share: half}}]": (4, "share: Expected `float`", "share"),
    "  a: [{prune: {share: 0.6, pattern: '2:4'}}]": (4, "2:4 zeroes a half", "leave out"),
    "  a: [{prune: 0.5}]": (4, "takes options by name", "share"),
    "  a: [[prune]]": (4, "is no step", "prune"),
    "  a: [{prune: {}, fp16: {}}]": (4, "is no step", "one step an entry"),
    "  a: []": (4, "has 0 steps", "1 to"),
    "  a/b: [fp16]": (4, "names no variant", "letters"),
    "  a: [fp16, fp16]": (4, "fp16 cannot follow fp16", "before fp16"),
    "  a:\n    - int8-static\n    - prune": (6, "prune cannot follow int8-static", "before int8-static"),
    "  a: [int8, fp16]": (4, "fp16 cannot follow int8", "last"),
    "  a: [fp16, int8]": (4, "int8 cannot follow fp16", "before fp16"),
    "  a: [{int8: {max_drop: lots}}]": (4, 'max_drop "lots" is no share', "1 pp"),
    "  a: [{int8: {max_drop: 100 %}}]": (4, "is no share", "1 pp"),
    "  a: [{int8: {min_snr: -3}}]": (4, "is no ratio", "25 dB"),
    "  a: [{int8: {for: tensorflow}}]": (4, 'no runtime "tensorflow"', "onnxruntime"),
    "  a: [int8-mixed]": (4, "it has no budget", "max_drop"),
    "  a: [{from: b}]": (4, 'no variant "b" above', ""),
    "  a: [fp16]\n  b: [prune, {from: a}]": (5, "from comes first", "beginning"),
}


@pytest.mark.parametrize("lines", BAD)
def test_what_is_no_recipe_is_told_with_its_line(lines: str) -> None:
    line, told, hint = BAD[lines]
    with pytest.raises(ConfigError) as caught:
        recipe.parse(f"version: 1\n# a comment\nvariants:\n{lines}\n", "recipe.yaml")
    assert caught.value.line == line
    assert told in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version: 2\nvariants: {a: [fp16]}\n", "reads version 1"),
        ("version: 1\nvariants: {}\n", "0 entries"),
        ("version: 1\nvariants: {a: [fp16]}\nfactory: rm -rf\n", "factory is"),
        ("version: 1\nvariants: {a: [fp16]}\nseed: -1\n", "seed is -1"),
        ("version: 1\nvariant: {a: [fp16]}\n", 'unknown key "variant"'),
        ("version: 1\nvariants: {a: [fp16]}\ndata: {tests: t.npz}\n", 'unknown key "tests"'),
    ],
)
def test_the_file_itself_is_checked(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        recipe.parse(text, "recipe.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["prune", "int8", "from", "share", "for", "x"]), inner, max_size=3
            )
        ),
        max_leaves=12,
    )
)
def test_any_list_of_steps_is_understood_or_refused(items: object) -> None:
    import json

    text = f"version: 1\nvariants: {{a: {json.dumps(items if isinstance(items, list) else [items])}}}\n"
    try:
        made = recipe.parse(text, "recipe.yaml")
    except ConfigError:
        return
    assert made.variants


def test_training_steps_come_first_and_need_a_factory() -> None:
    """Where the package of PyTorch steps is not there, its absence is said in words."""
    steps = "version: 1\nvariants: {a: [fp16, distill]}\n"
    with pytest.raises(ConfigError) as caught:
        recipe.parse(steps, "recipe.yaml")
    told = f"{caught.value.message} {caught.value.hint}"
    assert "edgebench[compress]" in told or "cannot follow fp16" in told


def test_every_step_is_listed_with_its_options() -> None:
    listed = {each.name: each for each in recipe.list_steps()}
    assert {"prune", "cluster", "clean", "int8-static", "int8-mixed", "int4-weights", "int8"} <= set(listed)
    assert all(each.what and each.takes and each.makes for each in listed.values())
    share = next(each for each in listed["prune"].options if each.name == "share")
    assert (share.default, share.kind) == (0.5, "number, > 0, < 1")


# --- presets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "name"),
    [
        (["avx2", "avx512_vnni"], "onnxruntime-x86-vnni"),
        (["avx2", "avx_vnni"], "onnxruntime-x86-vnni"),
        (["avx2", "avx512f"], "onnxruntime-x86-no-vnni"),
        ([], "onnxruntime-x86"),
        (None, "onnxruntime-x86"),
    ],
)
def test_x86_forms_follow_from_instructions_and_not_from_the_name(
    features: list[str] | None, name: str
) -> None:
    made = preset("onnxruntime", processor("x86_64", features))
    assert made.name == name
    assert ("reduce_range=true" in made.step) == ("vnni" not in name or "no-vnni" in name)


def test_every_runtime_has_a_form_on_every_processor() -> None:
    from edgebench import compress

    for runtime in RUNTIMES:
        for arch in ("x86_64", "aarch64", "armv7l"):
            text = step_of(runtime, Processor(arch), "")
            assert text == "" or compress.step(text)
            mixed = step_of(runtime, Processor(arch), "min_snr=25 dB,ranges=entropy")
            step, options = compress.step(mixed)
            assert step.name == "int8-mixed"
            assert options.ranges == "entropy"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="no runtime"):
        preset("tensorflow", Processor("x86_64"))
