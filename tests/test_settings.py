"""Settings: precedence, paths, wrong values in exact words, and a store URL whose password never shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.errors import BugError, ConfigError, EdgebenchError, UserError
from edgebench.settings import Settings, load, redacted, resolve

HOME = {"HOME": "/home/ada"}


def test_defaults() -> None:
    found = resolve({}, HOME, {})
    assert found == Settings(home=Path("/home/ada/.local/share/edgebench"))
    assert (found.inventory, found.targets, found.store_url, found.redacted_store_url) == (
        None,
        None,
        None,
        None,
    )
    assert (found.convert_timeout_s, found.convert_memory_mib, found.jobs) == (900.0, 8192, 16)
    assert resolve({}, {**HOME, "XDG_DATA_HOME": "/data"}, {}).home == Path("/data/edgebench")
    assert resolve({}, {**HOME, "XDG_DATA_HOME": "data"}, {}).home == Path("/home/ada/.local/share/edgebench")


def test_each_layer_wins_over_the_one_before() -> None:
    texts = {
        "pyproject.toml": "[tool.edgebench]\njobs = 1\nconvert_memory_mib = 1000\nhome = 'a'\n",
        "edgebench.toml": "jobs = 2\nconvert_timeout_s = 60\n",
    }
    environ = {**HOME, "EDGEBENCH_JOBS": "3", "EDGEBENCH_HOME": "~/bench", "EDGEBENCH_INVENTORY": ""}
    found = resolve(texts, environ, {"jobs": None})
    assert (found.jobs, found.convert_timeout_s, found.convert_memory_mib) == (3, 60.0, 1000)
    assert (found.home, found.inventory) == (Path("/home/ada/bench"), None)
    assert resolve(texts, environ, {"jobs": 4, "inventory": Path("lab.yaml")}).jobs == 4
    assert resolve({"pyproject.toml": texts["pyproject.toml"]}, HOME, {}).jobs == 1
    assert resolve({"pyproject.toml": "[project]\nname = 'x'"}, HOME, {}).jobs == 16


def test_which_devices_are_checked() -> None:
    assert resolve({}, HOME, {}).health_check == "boards"
    assert resolve({}, {**HOME, "EDGEBENCH_HEALTH_CHECK": "off"}, {}).health_check == "off"
    with pytest.raises(UserError, match="EDGEBENCH_HEALTH_CHECK is none of boards, all, off") as caught:
        resolve({}, {**HOME, "EDGEBENCH_HEALTH_CHECK": "no"}, {})
    assert "write boards" in caught.value.hint


def test_what_a_lease_guards() -> None:
    assert resolve({}, HOME, {}).lease == "board"
    assert resolve({"edgebench.toml": 'lease = "folder"'}, HOME, {}).lease == "folder"
    assert resolve({}, {**HOME, "EDGEBENCH_LEASE": "folder"}, {}).lease == "folder"
    with pytest.raises(UserError, match="EDGEBENCH_LEASE is neither board nor folder") as caught:
        resolve({}, {**HOME, "EDGEBENCH_LEASE": "bord"}, {})
    assert "write board, or folder" in caught.value.hint
    with pytest.raises(ConfigError, match=r"edgebench\.toml:1: lease"):
        resolve({"edgebench.toml": 'lease = "bord"'}, HOME, {})


def test_a_home_that_is_given_needs_no_home_folder() -> None:
    assert resolve({}, {"EDGEBENCH_HOME": "/srv/edgebench"}, {}).home == Path("/srv/edgebench")
    with pytest.raises(UserError, match="there is no home folder") as caught:
        resolve({}, {}, {})
    assert caught.value.hint == "set HOME or EDGEBENCH_HOME"


FILE_REFUSALS = [
    (
        "edgebench.toml",
        "jops = 3",
        'edgebench.toml:1: unknown key "jops" in the file',
        'did you mean "jobs"?',
    ),
    (
        "pyproject.toml",
        "jobs = 1\n[tool.edgebench]\n\njobs = 0",
        "pyproject.toml:4: jobs is 0",
        "write a number from 1 to 256",
    ),
    (
        "edgebench.toml",
        'jobs = "3"',
        'edgebench.toml:1: jobs expects a whole number, found the text "3"',
        "write the number alone, without quotes and unit",
    ),
    (
        "edgebench.toml",
        "convert_timeout_s = inf",
        "edgebench.toml:1: convert_timeout_s expects a number, found inf",
        "write the number alone, without quotes and unit",
    ),
    ("edgebench.toml", 'home = ""', "edgebench.toml:1: home is empty", "write a value, or leave the key out"),
    (
        "edgebench.toml",
        'store_url = "hunter2@db"',
        "edgebench.toml:1: store_url is no URL of a database",
        "write for example postgresql+psycopg://user@host/edgebench",
    ),
    ("edgebench.toml", "jobs = 1\njobs = 2", None, None),
    ("pyproject.toml", "[tool]\nedgebench = 3", None, None),
]


@pytest.mark.parametrize(("name", "text", "message", "hint"), FILE_REFUSALS, ids=range(len(FILE_REFUSALS)))
def test_wrong_files(name: str, text: str, message: str | None, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve({name: text}, HOME, {})
    if message is not None:
        assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("environ", "message", "hint"),
    [
        (
            {"EDGEBENCH_JOBS": "many"},
            'EDGEBENCH_JOBS is "many", which is no number',
            "write a number from 1 to 256",
        ),
        ({"EDGEBENCH_JOBS": "1000"}, "EDGEBENCH_JOBS is 1000", "write a number from 1 to 256"),
        (
            {"EDGEBENCH_HOMES": "/x"},
            "unknown variable EDGEBENCH_HOMES in the environment",
            'did you mean "EDGEBENCH_HOME"?',
        ),
        (
            {"EDGEBENCH_STORE_URL": "hunter2"},
            "EDGEBENCH_STORE_URL is no URL of a database",
            "write for example postgresql+psycopg://user@host/edgebench",
        ),
    ],
)
def test_wrong_variables(environ: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve({}, HOME | environ, {})
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (message, hint, 2)


def test_variables_of_others_are_left_alone() -> None:
    resolve({}, {**HOME, "EDGEBENCH_NO_SKIPS": "1", "EDGEBENCH_SSH_PASSPHRASE": "x"}, {})


def test_wrong_flags() -> None:
    with pytest.raises(UserError, match=r"--convert-memory-mib is 1$"):
        resolve({}, HOME, {"convert_memory_mib": 1})
    with pytest.raises(BugError, match="no setting is called jop"):
        resolve({}, HOME, {"jop": 1})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql+psycopg://ada:hunter2@db.example:5432/bench",
            "postgresql+psycopg://ada:***@db.example:5432/bench",
        ),
        ("postgresql://ada@db/bench?sslmode=require&password=hunter2", "postgresql://ada@db/bench?***"),
        ("postgresql://ada:hun/te@r?2@db/bench", "postgresql://ada:***@db/bench"),
        ("sqlite:////srv/bench.db", "sqlite:////srv/bench.db"),
        ("hunter2", "***"),
    ],
)
def test_redacted_urls(url: str, shown: str) -> None:
    assert redacted(url) == shown
    found = resolve({}, HOME, {"store_url": url}) if "://" in url else Settings(home=Path(), store_url=url)
    assert found.redacted_store_url == shown
    assert "hunter2" not in repr(found)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abc123:/?@&=%#+", max_size=20))
def test_no_password_survives_redaction(noise: str) -> None:
    secret = f"{noise}S3CRET{noise}"
    assert "S3CRET" not in redacted(f"postgresql://ada:{secret}@db/bench")
    assert "S3CRET" not in redacted(f"postgresql://db/bench?password={secret}")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["pyproject.toml", "edgebench.toml"]),
    st.one_of(st.text(max_size=60), st.text(alphabet="[]tool.edgebench=\"' \n12jobs", max_size=60)),
    st.dictionaries(
        st.sampled_from(["EDGEBENCH_JOBS", "EDGEBENCH_HOME", "EDGEBENCH_STORE_URL"]), st.text(max_size=8)
    ),
)
def test_any_source_is_taken_or_refused(name: str, text: str, environ: dict[str, str]) -> None:
    try:
        found: object = resolve({name: text}, HOME | environ, {})
    except EdgebenchError as error:
        found = error
    assert isinstance(found, Settings | UserError)


def test_loading_reads_the_working_folder(tmp_path: Path) -> None:
    assert load(tmp_path, HOME).inventory is None
    (tmp_path / "edgebench.toml").write_text("jobs = 5\n")
    (tmp_path / "inventory.yaml").write_text("")
    found = load(tmp_path, HOME)
    assert (found.jobs, found.inventory) == (5, tmp_path / "inventory.yaml")
    assert load(tmp_path, HOME, {"inventory": "lab.yaml"}).inventory == Path("lab.yaml")


def test_how_long_a_device_may_build() -> None:
    assert resolve({}, HOME, {}).build_timeout_s == 3600.0
    assert resolve({}, {**HOME, "EDGEBENCH_BUILD_TIMEOUT_S": "90.5"}, {}).build_timeout_s == 90.5
    assert resolve({}, {**HOME, "EDGEBENCH_TRTEXEC": "/opt/trtexec"}, {}).build_timeout_s == 3600.0
    with pytest.raises(UserError, match="EDGEBENCH_BUILD_TIMEOUT_S is 0"):
        resolve({}, {**HOME, "EDGEBENCH_BUILD_TIMEOUT_S": "0"}, {})
