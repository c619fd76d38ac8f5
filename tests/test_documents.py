"""Strict documents: what is taken, what is refused, and the exact words of every refusal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench import documents
from edgebench.errors import ConfigError, EdgebenchError, UserError
from edgebench.records import Record, Target


class Wheel(Record, frozen=True):
    size_mm: float
    spokes: int = 32


class Bike(Record, frozen=True):
    name: str
    kind: Literal["city", "race"] = "city"
    wheels: dict[str, Wheel] = {}
    gears: tuple[int, ...] = ()
    owner: str | None = None
    sold: bool = False
    keys: str | tuple[str, ...] = ()


def refusal(text: str) -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        documents.load(text, Bike, source="bike.yaml")
    return caught.value.message, caught.value.hint


def test_takes_nested_records_with_their_types() -> None:
    text = """\
name: "007"
kind: race
wheels:
  front: {size_mm: 622, spokes: 24}
  3.10: {size_mm: 6.22e2}
gears: [11, -2, +3]
owner: ~
sold: true
keys: a
"""
    bike = documents.load(text, Bike, source="bike.yaml")
    wheels = {"front": Wheel(size_mm=622.0, spokes=24), "3.10": Wheel(size_mm=622.0)}
    assert bike == Bike(name="007", kind="race", wheels=wheels, gears=(11, -2, 3), sold=True, keys="a")
    assert isinstance(bike.wheels["front"].size_mm, float)


def test_words_of_old_yaml_stay_texts() -> None:
    for word in (
        "yes",
        "no",
        "on",
        "off",
        "012",
        "1_000",
        "10:30",
        "2026-11-23",
        ".inf",
        ".nan",
        "0x1F",
        "=",
        "<<",
    ):
        assert documents.load(f"name: {word}", Bike, source="x").name == word


# Recorded: these are the words that a person reads at night. Change them on purpose only.
REFUSALS = [
    ("", "bike.yaml:1: is empty", "the first line is usually: version: 1"),
    ("# nothing\n", "bike.yaml:1: is empty", "the first line is usually: version: 1"),
    ("name: a\nnmae: b", 'bike.yaml:2: unknown key "nmae" in the file', 'did you mean "name"?'),
    (
        "name: a\nwheels:\n  front:\n    size_mm: 1\n    spoke: 2",
        'bike.yaml:5: unknown key "spoke" in wheels.front',
        'did you mean "spokes"?',
    ),
    (
        "name: a\npassword: hunter2",
        'bike.yaml:2: unknown key "password" in the file',
        "known: gears, keys, kind, name, owner, sold, wheels",
    ),
    ("kind: city", 'bike.yaml:1: the file lacks the key "name"', "add: name: <a text>"),
    (
        "name: a\nwheels:\n  front:\n    spokes: 3",
        'bike.yaml:3: wheels.front lacks the key "size_mm"',
        "add: size_mm: <a number>",
    ),
    ("name: 3.10", "bike.yaml:1: name expects a text, found the number 3.10", 'put it in quotes: "3.10"'),
    ("name: true", "bike.yaml:1: name expects a text, found true", 'put it in quotes: "true"'),
    ("name:", "bike.yaml:1: name expects a text, found nothing", "write a text there"),
    ("name: [a]", "bike.yaml:1: name expects a text, found a list", "write a text there"),
    (
        "name: a\nsold: yes",
        'bike.yaml:2: sold expects true or false, found the text "yes"',
        "write true or false there",
    ),
    (
        "name: a\nkind: rase",
        'bike.yaml:2: kind expects one of "city", "race", found the text "rase"',
        'did you mean "race"?',
    ),
    ("name: a\ngears: 3", "bike.yaml:2: gears expects a list, found the number 3", "write it as a list: [3]"),
    (
        "name: a\ngears:\n- 1\n- 2.5",
        "bike.yaml:4: gears[1] expects a whole number, found the number 2.5",
        "write the number alone, without quotes and unit",
    ),
    (
        "name: a\nwheels: {front: {size_mm: big}}",
        'bike.yaml:2: wheels.front.size_mm expects a number, found the text "big"',
        "write the number alone, without quotes and unit",
    ),
    (
        "name: a\nwheels: []",
        "bike.yaml:2: wheels expects a mapping (key: value), found a list",
        "write a mapping (key: value) there",
    ),
    (
        "name: a\nkeys: {b: c}",
        "bike.yaml:2: keys expects a text or a list, found a mapping",
        "write a text or a list there",
    ),
    (
        "name: a\nwheels:\n  front: {size_mm: 1}\n  front: {size_mm: 2}",
        'bike.yaml:4: the key "front" in wheels is already on line 3',
        "remove or rename one of the two",
    ),
    (
        "- a",
        "bike.yaml:1: the file expects a mapping (key: value), found a list",
        "write a mapping (key: value) there",
    ),
    (
        "name: &x a\nowner: *x",
        "bike.yaml:1: anchors and aliases (& and *) are not allowed",
        "write the value out each time",
    ),
    (
        "name: !!python/object/apply:os.system [id]",
        'bike.yaml:1: the tag "tag:yaml.org,2002:python/object/apply:os..." is not allowed',
        "write plain values only",
    ),
    ("name: !secret a", 'bike.yaml:1: the tag "!secret" is not allowed', "write plain values only"),
    ("name: a\n\towner: b", "bike.yaml:2: the line is indented with a tab", "YAML wants spaces: use two"),
    (
        "name: a\n---\nname: b",
        "bike.yaml:2: a second document begins here",
        "one file holds one document: remove the ---",
    ),
    (
        "? [name]\n: a",
        "bike.yaml:1: a key must be a word",
        'put it in quotes if it begins with "{" or "["',
    ),
    ("name: a\x07", "bike.yaml:1: this is not YAML: control characters are not allowed", ""),
    ("name: \ud800", "bike.yaml:1: holds a character that is no text (a lone surrogate)", ""),
    ('name: a\n"\x1b\\e[31m": b', None, None),
]


@pytest.mark.parametrize(("text", "message", "hint"), REFUSALS, ids=range(len(REFUSALS)))
def test_refuses_in_these_words(text: str, message: str | None, hint: str | None) -> None:
    found = refusal(text)
    assert all(part.isprintable() for part in found)
    if message is not None:
        assert found == (message, hint)


def test_broken_yaml_names_the_line() -> None:
    message, hint = refusal("name: a\ngears: [1, 2\nkind: city\n")
    assert message.startswith("bike.yaml:3: this is not YAML: ")
    assert "indentation" in hint


def test_a_yaml_bomb_is_refused_at_its_first_anchor() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    message, _ = refusal("\n".join(lines))
    assert message == "bike.yaml:1: anchors and aliases (& and *) are not allowed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: " + "[" * 100_000, "bike.yaml:1: is nested deeper than 32 levels"),
        ("name: " + "{a: " * 40, "bike.yaml:1: is nested deeper than 32 levels"),
        ("gears: [" + "1," * 100_001 + "]", "bike.yaml:1: holds more than 100000 values"),
        ("name: " + "x" * (1 << 20), "bike.yaml:1: is larger than 1 MiB"),
        (
            "name: a\nsold: 1" + "0" * 5000,
            'bike.yaml:2: sold expects true or false, found the text "1' + "0" * 39 + '..."',
        ),
    ],
)
def test_sizes_are_bounded(text: str, message: str) -> None:
    assert refusal(text)[0] == message


def test_lines_are_those_of_the_keys() -> None:
    text = "\n# a bike\nname: >\n  long\n  name\nwheels:\n  front:\n    size_mm: 1\ngears:\n  - 1\n  - 2\n"
    document = documents.load_with_lines(text, Bike, source="bike.yaml")
    assert document.line("name") == 3
    assert document.line("wheels", "front", "size_mm") == 8
    assert document.line("gears", 1) == 11
    assert document.line("wheels", "front", "spokes") == 7, "what is not written is where it would stand"
    assert str(document.error(("gears", 1), "is too high")) == "bike.yaml:11: is too high"


def test_toml_is_as_strict() -> None:
    def refused(text: str, table: tuple[str, ...] = ()) -> tuple[str, str]:
        with pytest.raises(ConfigError) as caught:
            documents.load_toml(text, Bike, source="bike.toml", table=table)
        return caught.value.message, caught.value.hint

    text = 'x = 1\n[tool.bike]\nname = "a"\n[tool.bike.wheels]\nfront = {size_mm = 3}\n'
    document = documents.load_toml(text, Bike, source="bike.toml", table=("tool", "bike"))
    assert document is not None
    assert document.value == Bike(name="a", wheels={"front": Wheel(size_mm=3.0)})
    assert document.line("name") == 3
    assert documents.load_toml("x = 1", Bike, source="bike.toml", table=("tool", "bike")) is None
    assert refused('name = "a"\nsolt = 1') == (
        'bike.toml:2: unknown key "solt" in the file',
        'did you mean "sold"?',
    )
    assert refused('nam = 1\n[t]\nname = "a"\nsold = 1', ("t",))[0] == (
        "bike.toml:4: sold expects true or false, found the number 1"
    )
    assert refused("name = 2026-11-23\n") == (
        "bike.toml:1: name expects a text, found 2026-11-23",
        'put it in quotes: "2026-11-23"',
    )
    assert refused('name = "a"\nwheels.front.size_mm = nan')[0] == (
        "bike.toml:2: wheels.front.size_mm expects a number, found nan"
    )
    assert refused('name = "a\n')[0] == "bike.toml:1: this is not TOML: Illegal character '\\n'"
    assert refused("name = " + "[" * 5000)[0].startswith("bike.toml:1: this is not TOML: ")


def test_reading_files(tmp_path: Path) -> None:
    path = tmp_path / "bike.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: R\xc3\xa4dle\n")
    assert documents.read(path, Bike).name == "Rädle"

    path.write_bytes(b"name: a\nowner: R\xe4dle\n")
    with pytest.raises(ConfigError, match=r"bike.yaml:2: this is not UTF-8 text"):
        documents.read(path, Bike)
    path.write_bytes(b"#" * (documents.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        documents.read(path, Bike)


def test_what_is_no_file_is_a_user_error(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, words in (
        (tmp_path / "none.yaml", "there is no file"),
        (tmp_path, "is not a regular file"),
        (pipe, "is not a regular file"),
        (Path("a\0b"), "cannot read"),
        (Path("x" * 5000), "cannot read"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            documents.read_text(path)
        assert caught.value.exit_code == 2
        assert "\0" not in caught.value.message


def test_every_message_part_is_printable() -> None:
    assert documents.quoted("a\x1b[31m\n") == '"a\\x1b[31m\\n"'
    assert documents.quoted("x" * 50) == '"' + "x" * 40 + '..."'


YAML_TEXTS = st.one_of(
    st.text(max_size=200),
    st.text(alphabet="ab:-[]{},&*!|>'\"#%@`?~ \n\t01.", max_size=80),
    st.binary(max_size=100).map(lambda data: data.decode("latin-1")),
)


def outcome(load: Callable[[], object]) -> object:
    """What comes out, or the error; anything but one of our errors fails the test by itself."""
    try:
        return load()
    except EdgebenchError as error:
        return error


@settings(max_examples=400, deadline=None)
@given(YAML_TEXTS)
def test_any_yaml_is_taken_or_refused_with_a_line(text: str) -> None:
    for kind in (Bike, Target):
        result = outcome(partial(documents.load, text, kind, source="x.yaml"))
        assert isinstance(result, kind | ConfigError)
        if isinstance(result, ConfigError):
            assert 1 <= result.line <= len(text) + 1
            assert result.message.isprintable()


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=200), st.text(alphabet="ab=[]{}.\"'# \n01,", max_size=60)))
def test_any_toml_is_taken_or_refused_with_a_line(text: str) -> None:
    result = outcome(partial(documents.load_toml, text, Bike, source="x.toml"))
    assert isinstance(result, documents.Document | ConfigError)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(max_size=10) | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(Bike.__struct_fields__), PLAIN, max_size=7))
def test_wrong_types_are_refused_and_right_ones_kept(data: dict[str, object]) -> None:
    text = json.dumps(data)  # JSON is YAML
    result = outcome(partial(documents.load, text, Bike, source="x.yaml"))
    if isinstance(result, Bike):
        assert all(
            getattr(result, key) == value for key, value in data.items() if isinstance(value, str | bool)
        )
    else:
        assert isinstance(result, ConfigError)
        assert result.line == 1
