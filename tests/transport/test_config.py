"""The ssh configuration: `ssh -G` and what is read here say the same; nothing from outside is an option."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.transport.ssh import config
from edgebench.transport.ssh.config import HostConfig, host_config, origin, parse_ssh_g, read
from edgebench.transport.ssh.config_files import KEYWORDS, Asked, parse, words_of

WITHOUT_SSH = "/nowhere"

CONFIG = """\
# boards of the lab
Include parts/*.conf absent.conf
Host orin-* !orin-9
  HostName %h.lab.example
  User=pi
  IdentityFile ~/.ssh/id_%h
  IdentityFile "{home}/with blank"
  ProxyJump gate@bastion:2222,second
Host orin-1
  Port 2022   # first one counts
  User other
  IdentitiesOnly yes
  UserKnownHostsFile ~/.ssh/lab_hosts /etc/lab_hosts
  HostKeyAlias the-orin
Match user pi host *.lab.example
  IdentityAgent {home}/agent
Match originalhost pi,pie !user nobody
  User matched
Match all
  GlobalKnownHostsFile none
Host *
  Port 2200
  FancyOption whatever
  IgnoreUnknown FancyOption
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with an ssh folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By whom a configuration is read: `ssh -G`, or edgebench itself."""
    if request.param == "here":
        monkeypatch.setenv("PATH", WITHOUT_SSH)
    elif shutil.which("ssh") is None:
        pytest.skip("missing tool: ssh (Debian package openssh-client)")
    return str(request.param)


def written(home: Path, text: str, name: str = "config") -> str:
    path = home / ".ssh" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_a_home_without_a_configuration_says_nothing(home: Path) -> None:
    assert read(Asked("board")).user is None
    assert read(Asked("board", source="none")) == HostConfig()


@pytest.mark.parametrize("by", ["ssh", "here"], indirect=True)
def test_host_user_port_keys_and_jumps(home: Path, by: str) -> None:
    text = CONFIG.format(home=home).replace("Include parts/*.conf absent.conf\n", "")
    text = "IgnoreUnknown FancyOption\n" + text
    source = written(home, text)
    found = read(Asked("orin-1", source=source))
    assert found.hostname == "orin-1.lab.example"
    assert (found.user, found.port) == ("pi", 2022)
    assert found.identity_files == (f"{home}/.ssh/id_orin-1.lab.example", f"{home}/with blank")
    assert found.jump == "gate@bastion:2222,second"
    assert found.identities_only
    assert found.host_key_alias == "the-orin"
    assert found.agent == f"{home}/agent"
    assert found.known_hosts[1:] == ("/etc/lab_hosts",)
    assert read(Asked("orin-9", source=source)).port == 2200
    assert read(Asked("orin-9", source=source)).hostname is None
    assert read(Asked("pie", source=source)).user == "matched"
    assert read(Asked("pi", user="root", source=source)).user in ("root", None)


def test_includes_are_read_in_order_and_where_they_hold(home: Path) -> None:
    (home / ".ssh" / "parts").mkdir()
    written(home, CONFIG.format(home=home))
    written(home, "Host orin-1\n  User first\nHost b\n  User b\n", "parts/1.conf")
    written(home, "Host orin-1\n  User second\n  Port 1\n", "parts/2.conf")
    found = read(Asked("orin-1"))
    assert (found.user, found.port) == ("first", 1)
    assert origin(Asked("orin-1"), "user", "first") == "~/.ssh/parts/1.conf:2"
    assert origin(Asked("orin-1"), "port", "1") == "~/.ssh/parts/2.conf:3"
    written(home, "Host other\n  Include parts/1.conf\nHost b\n  Port 7\n")
    assert read(Asked("orin-1")).user is None, "an Include below a Host holds for that host alone"
    assert (read(Asked("b")).user, read(Asked("b")).port) == (None, 7)


def test_a_file_that_includes_itself_ends(home: Path) -> None:
    written(home, "Include config\n")
    with pytest.raises(UserError, match="too many Includes"):
        read(Asked("board"))


def test_a_configuration_that_others_may_write_is_not_trusted(home: Path) -> None:
    written(home, "Host *\n  HostName evil.example\n")
    (home / ".ssh" / "config").chmod(0o666)
    with pytest.raises(UserError, match="others may write it") as caught:
        read(Asked("board"))
    assert "chmod go-w" in caught.value.hint


@pytest.mark.parametrize("by", ["ssh", "here"], indirect=True)
def test_what_is_wrong_is_the_users_to_mend(home: Path, by: str) -> None:
    with pytest.raises(UserError, match="there is no ssh configuration"):
        read(Asked("board", source=str(home / "nothing")))
    for line in ("HostName /etc/passwd", "HostName a$(id)"):
        with pytest.raises(UserError):
            read(Asked("board", source=written(home, f"{line}\n")))


def test_what_ssh_does_not_understand_is_told_in_its_words(home: Path) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("missing tool: ssh (Debian package openssh-client)")
    with pytest.raises(UserError, match="Bad configuration option: bogus") as caught:
        read(Asked("board", source=written(home, "Bogus yes\n")))
    assert "ssh.config: none" in caught.value.hint


def test_a_match_that_hangs_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("missing tool: ssh (Debian package openssh-client)")
    monkeypatch.setattr(config, "SSH_G_S", 0.3)
    with pytest.raises(UserError, match=r"did not end within 0\.3 s"):
        read(Asked("board", source=written(home, 'Match exec "sleep 3"\n  User x\n')))


def test_secrets_are_not_handed_to_the_users_own_commands(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("missing tool: ssh (Debian package openssh-client)")
    monkeypatch.setenv("EDGEBENCH_SSH_PASSWORD", "s3cret")
    command = f"env > {home}/seen"
    assert read(Asked("board", source=written(home, f'Match exec "{command}"\n  User x\n'))).user == "x"
    assert "s3cret" not in (home / "seen").read_text()
    assert "PATH=" in (home / "seen").read_text()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    host=st.one_of(
        st.sampled_from(
            [
                "-oProxyCommand=touch {mark}",
                "-F{mark}",
                "a;touch {mark}",
                "$(touch {mark})",
                "::1%`touch {mark}`",
            ]
        ),
        st.text(max_size=30),
    ),
    user=st.one_of(
        st.none(),
        st.sampled_from(["-oProxyCommand=touch {mark}", "$(touch {mark})", "-l"]),
        st.text(max_size=20),
    ),
)
def test_nothing_hostile_becomes_an_option_or_a_command(home: Path, host: str, user: str | None) -> None:
    """With a Match that hands host and user to a shell, as configurations do."""
    mark = home / "mark"
    source = written(home, 'Match exec "true %n %h %r"\n  Port 9\n')
    host = host.replace("{mark}", str(mark))
    found = read(Asked(host, user.replace("{mark}", str(mark)) if user else user, source=source))
    assert not mark.exists()
    assert found.command is None
    assert found.port in (None, 9, 22)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", ["a", "b"]),
        ('"a b" c', ["a b", "c"]),
        ("'a b'", ["a b"]),
        ("a # b", ["a"]),
        ("a#b", ["a#b"]),
        (r"a\"b", ['a"b']),
        ('pre"fix ed"', ["prefix ed"]),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


NAMES = ("board", "orin-1", "b.lab")
PATTERNS = st.sampled_from(["board", "orin-*", "*", "!board", "b.???", "*.lab", "other", "!*-1"])
LINES = st.one_of(
    st.lists(PATTERNS, min_size=1, max_size=3).map(lambda names: "Host " + " ".join(names)),
    st.tuples(st.sampled_from(["host", "originalhost", "user", "!host", "localuser"]), PATTERNS).map(
        lambda two: f"Match {two[0]} {two[1].lstrip('!')}"
    ),
    st.just("Match all"),
    st.sampled_from(["u1", "u2", "board"]).map("  User {}".format),
    st.sampled_from(["22", "2200", "1"]).map("  Port {}".format),
    st.sampled_from(["%h.example", "10.0.0.1", "b.lab"]).map("  HostName {}".format),
    st.sampled_from(["~/.ssh/a", "/k/%h", '"/a b"', "none"]).map("  IdentityFile {}".format),
    st.sampled_from(["j", "x@j:1,k", "none"]).map("  ProxyJump {}".format),
    st.sampled_from(["yes", "no"]).map("  IdentitiesOnly {}".format),
    st.sampled_from(["alias1", "alias2"]).map("  HostKeyAlias={}".format),
    st.sampled_from(["/x /y", "none", "/z"]).map("  UserKnownHostsFile {}".format),
    st.sampled_from(["", "# Host *", "  Compression yes", "Include more.conf"]),
)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="missing tool: ssh (openssh-client)")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=14), name=st.sampled_from(NAMES), user=st.sampled_from([None, "board"]))
def test_read_here_it_means_what_ssh_says(home: Path, lines: list[str], name: str, user: str | None) -> None:
    text = "\n".join(lines).replace("Include more.conf", f"Include {home}/more.conf") + "\n"
    (home / "more.conf").write_text("User included\nHost orin-*\n  Port 99\n")
    asked = Asked(name, user, source=written(home, text))
    here, there = host_config(asked, parse(asked).values), read(asked)
    own = os.environ.get("LOGNAME") or "root"
    for field in ("hostname", "jump", "identity_files", "identities_only", "host_key_alias", "known_hosts"):
        assert getattr(here, field) == getattr(there, field), f"{field} of {text}"
    assert (here.port or 22) == (there.port or 22), text
    assert (here.user or own) == (there.user or own), text


@given(st.text(max_size=400))
def test_any_answer_of_ssh_is_read(text: str) -> None:
    values = parse_ssh_g(text)
    assert set(values) <= set(KEYWORDS)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="HostMatchInclude \n\t=\"'#%!*?,\\usertpjfile0:@~/-", max_size=200))
def test_any_configuration_is_read_or_refused(home: Path, text: str) -> None:
    asked = Asked("board", source=written(home, text))
    try:
        found: object = host_config(asked, parse(asked).values)
    except UserError as error:
        found = error
    assert found
