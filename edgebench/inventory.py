"""`inventory.yaml` -> devices, each merged from its entry, its groups and the defaults; how one picks them.

Strongest first: device, group, defaults, built-in default. Groups that disagree on a value are an error; the
last one never wins silently. Every merged value remembers its line (`explain`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgebench import documents, targets
from edgebench.documents import At, Document, place, quoted
from edgebench.errors import NothingDone, UserError, did_you_mean
from edgebench.records import Device, Record, SshSettings, replace

VERSION = 1
BUILT_IN = "built in"
RESERVED = ("all", "controller", "default")  # a selector, parity's other side, and a value's origin


# --- what stands in the file ---------------------------------------------------------------------


class SshEntry(Record, frozen=True):
    """Keys under `ssh`. `jump_host_key` pins the jump host as `host_key` pins the device."""

    user: str | None = None
    port: int | None = None
    key_file: str | None = None
    jump: str | None = None
    jump_host_key: str | tuple[str, ...] | None = None


class DefaultsEntry(Record, frozen=True):
    """Keys under `defaults`: the weakest."""

    ssh: SshEntry = SshEntry()
    work_dir: str | None = None
    lease: Literal["board", "folder"] | None = None


class GroupEntry(Record, frozen=True):
    """Keys under `groups.NAME`. Groups hold no groups."""

    tags: dict[str, str] = {}
    ssh: SshEntry = SshEntry()
    work_dir: str | None = None
    lease: Literal["board", "folder"] | None = None


class DeviceEntry(Record, frozen=True):
    """Keys under `devices.NAME`: the strongest."""

    target: str | None = None
    transport: Literal["ssh", "local"] = "ssh"
    address: str | None = None
    host_key: str | tuple[str, ...] | None = None
    groups: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    ssh: SshEntry = SshEntry()
    work_dir: str | None = None
    lease: Literal["board", "folder"] | None = None
    quarantine: str | None = None


class InventoryFile(Record, frozen=True):
    """The whole file."""

    version: int
    devices: dict[str, DeviceEntry]
    defaults: DefaultsEntry = DefaultsEntry()
    groups: dict[str, GroupEntry] = {}


# --- what comes out ------------------------------------------------------------------------------


class Inventory(Record, frozen=True):
    """All devices in the order of the file. `origins`: device -> key -> where its value was written."""

    source: str
    devices: tuple[Device, ...]
    groups: tuple[str, ...] = ()
    origins: dict[str, dict[str, str]] = {}

    def device(self, name: str) -> Device:
        """The device of that name; UserError when there is none."""
        for device in self.devices:
            if device.name == name:
                return device
        known = [device.name for device in self.devices]
        raise UserError(f"there is no device {quoted(name)} in {self.source}", hint=did_you_mean(name, known))


class Selection(NamedTuple):
    """What a selector picks: the devices to use, and those it would pick were they not in quarantine."""

    devices: tuple[Device, ...]
    quarantined: tuple[Device, ...] = ()


class Explained(NamedTuple):
    """One merged value of a device and where it comes from: `inventory.yaml:12`, or "default"."""

    key: str
    value: str
    origin: str


def load(path: Path | None, *, extra_targets: Path | None = None) -> Inventory:
    """The inventory in a file; without a file, this computer alone. UserError and ConfigError as `parse`."""
    if path is None:
        return default(this_target())
    text = documents.read_text(path)
    return parse(text, str(path), known_targets=targets.names(extra_targets), local_target=this_target)


def default(target: str) -> Inventory:
    """The inventory without a file: one device `local`, which is this computer."""
    return Inventory(source=BUILT_IN, devices=(Device(name="local", target=target, transport="local"),))


def this_target() -> str:
    """The target of the computer that edgebench runs on; UserError where none fits."""
    import platform

    return target_for(platform.system(), platform.machine())


def target_for(system: str, machine: str) -> str:
    """The generic target for an operating system and processor as Python names them; UserError for others."""
    name = _GENERIC.get((system.lower(), machine.lower()))
    if name is None:
        raise UserError(
            f"there is no generic target for {quoted(system)} on {quoted(machine)}",
            hint="write one and name it in inventory.yaml: local: {transport: local, target: NAME}",
        )
    return name


_GENERIC = {
    ("linux", "x86_64"): "linux-x86_64",
    ("linux", "amd64"): "linux-x86_64",
    ("linux", "aarch64"): "linux-aarch64",
    ("linux", "arm64"): "linux-aarch64",
    ("darwin", "arm64"): "apple-silicon-mac",
}


def parse(
    text: str,
    source: str,
    *,
    known_targets: Collection[str] | None = None,
    local_target: Callable[[], str] = this_target,
) -> Inventory:
    """The devices that a YAML text lists; ConfigError with file, line and nearest key for anything wrong.

    With `known_targets` an unknown target is an error too. `local_target` is asked for the target of a local
    device that names none.
    """
    document = documents.load_with_lines(text, InventoryFile, source=source)
    _check_version(document)
    _check_names(document)
    for at, ssh in _ssh_entries(document.value):
        _check_ssh(document, at, ssh)
    merged = [_Merge(document, name, local_target) for name in document.value.devices]
    for merge in merged:
        merge.check(known_targets)
    return Inventory(
        source=source,
        devices=tuple(merge.device() for merge in merged),
        groups=tuple(document.value.groups),
        origins={merge.name: merge.origins for merge in merged},
    )


def select(inventory: Inventory, selector: str, *, include_quarantined: bool = False) -> Selection:
    """The devices that a selector picks, in the order of the file.

    A selector is `all`, a name (with `*` and `?`), `group:G`, `tag:K=V`, `target:T`, or several of these with
    commas between them (their union). UserError when any of them matches nothing: a typo never shrinks a
    fleet silently. NothingDone when everything that matches is in quarantine.
    """
    terms = [term.strip() for term in selector.split(",")]
    picked = {device.name for term in terms for device in _matches(inventory, term)}
    devices = tuple(device for device in inventory.devices if device.name in picked)
    if include_quarantined:
        return Selection(devices)
    kept = tuple(device for device in devices if device.quarantine is None)
    away = tuple(device for device in devices if device.quarantine is not None)
    if not kept:
        reasons = ", ".join(f"{device.name} ({device.quarantine})" for device in away)
        raise NothingDone(
            f"everything that {quoted(selector)} picks is in quarantine: {reasons}",
            hint=f"pick another device, or remove its quarantine from {inventory.source}",
        )
    return Selection(kept, away)


def explain(inventory: Inventory, name: str) -> tuple[Explained, ...]:
    """Every merged value of a device with the place where it was written; UserError for an unknown device."""
    device = inventory.device(name)
    origins = inventory.origins.get(name, {})
    return tuple(Explained(key, value, origins.get(key, "default")) for key, value in _shown(device))


# --- checks --------------------------------------------------------------------------------------

_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@\\-]{0,63}")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_JUMP = re.compile(
    r"(?:(?P<user>[^@]+)@)?(?:\[(?P<six>[^]]+)\]|(?P<host>[^:\[\]@]+))(?::(?P<port>[0-9]{1,5}))?"
)
_HOST_KEY = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_FOLDER = re.compile(r"[A-Za-z0-9._/+@-]{1,200}")
_NAME_HINT = "letters, digits, dot, dash and underscore, beginning with a letter or digit; at most 64"


def _check_version(document: Document[InventoryFile]) -> None:
    version = document.value.version
    if version != VERSION:
        message = f"version is {version}; this edgebench reads version {VERSION}"
        hint = "a newer file needs a newer edgebench" if version > VERSION else f"write version: {VERSION}"
        raise document.error(("version",), message, hint=hint)


def _check_names(document: Document[InventoryFile]) -> None:
    file = document.value
    for part, names in (("devices", file.devices), ("groups", file.groups)):
        for name in names:
            _check_name(document, (part, name), name)
    if not file.devices:
        raise document.error(("devices",), "devices is empty", hint="add one: local: {transport: local}")
    for name in RESERVED:
        if name in file.devices:
            message = f"a device cannot be called {quoted(name)}: edgebench uses that word itself"
            raise document.error(("devices", name), message, hint="choose another name")
    for at, tags in _tag_entries(file):
        for key, value in tags.items():
            _check_name(document, (*at, key), key)
            _check_name(document, (*at, key), value)


def _check_name(document: Document[InventoryFile], at: At, name: str) -> None:
    if not targets.NAME.fullmatch(name):
        raise document.error(at, f"{quoted(name)} in {place(at[:-1])} cannot be a name", hint=_NAME_HINT)


def _tag_entries(file: InventoryFile) -> Iterator[tuple[At, dict[str, str]]]:
    for name, group in file.groups.items():
        yield ("groups", name, "tags"), group.tags
    for name, device in file.devices.items():
        yield ("devices", name, "tags"), device.tags


def _ssh_entries(file: InventoryFile) -> Iterator[tuple[At, SshEntry]]:
    yield ("defaults", "ssh"), file.defaults.ssh
    for name, group in file.groups.items():
        yield ("groups", name, "ssh"), group.ssh
    for name, device in file.devices.items():
        yield ("devices", name, "ssh"), device.ssh


def _check_ssh(document: Document[InventoryFile], at: At, ssh: SshEntry) -> None:
    rules: tuple[tuple[str, object, bool, str], ...] = (
        ("user", ssh.user, ssh.user is None or _is_user(ssh.user), "a login name, for example pi"),
        ("port", ssh.port, ssh.port is None or 1 <= ssh.port <= 65535, "a number from 1 to 65535"),
        ("key_file", ssh.key_file, ssh.key_file is None or _is_path(ssh.key_file), "a path of a private key"),
        ("jump", ssh.jump, ssh.jump is None or _is_jump(ssh.jump), "[user@]host[:port]"),
    )
    for key, value, good, wanted in rules:
        if not good:
            message = f"{place((*at, key))} is {quoted(str(value))}, which cannot be right"
            raise document.error((*at, key), message, hint=f"write {wanted}")
    _check_host_keys(document, (*at, "jump_host_key"), ssh.jump_host_key)


def _check_host_keys(document: Document[InventoryFile], at: At, keys: str | tuple[str, ...] | None) -> None:
    for key in _listed(keys):
        if not _HOST_KEY.fullmatch(key):
            message = f"{place(at)} holds {quoted(key)}, which is no fingerprint"
            hint = 'write "SHA256:" and 43 characters, as `edgebench devices scan ADDRESS` prints it'
            raise document.error(at, message, hint=hint)


def _listed(keys: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (keys,) if isinstance(keys, str) else keys or ()


def _is_user(text: str) -> bool:
    return _USER.fullmatch(text) is not None


def _is_path(text: str) -> bool:
    return 0 < len(text) <= 1024 and text.isprintable()


def _is_jump(text: str) -> bool:
    match = _JUMP.fullmatch(text)
    if match is None or (match["user"] is not None and not _is_user(match["user"])):
        return False
    return is_address(match["six"] or match["host"]) and 0 < int(match["port"] or 22) <= 65535


def is_address(text: str) -> bool:
    """Whether a text is an IPv4 or IPv6 address or a host name; nothing that a command could mistake."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        numeric = text.rstrip(".").rpartition(".")[2].isdigit()  # a mistyped IPv4 address, no name
        return _HOST.fullmatch(text) is not None and not numeric
    return text.isprintable() and not re.search(r"[\s/\\]", text)  # an IPv6 scope may hold anything


def _is_work_dir(text: str) -> bool:
    """A folder of our own: never the root, a top-level folder, the home itself, or a way out of it."""
    steps = [step for step in text.split("/") if step]
    deep_enough = len(steps) >= (2 if text.startswith("/") else 1)
    return _FOLDER.fullmatch(text) is not None and deep_enough and not {".", ".."} & set(steps)


# --- merging -------------------------------------------------------------------------------------


class _Found(NamedTuple):
    value: Any
    at: At
    layer: str


class _Merge:
    """One device's entry, groups and the defaults, on the way to a `Device`."""

    def __init__(self, document: Document[InventoryFile], name: str, local_target: Callable[[], str]) -> None:
        self.name = name
        self.origins: dict[str, str] = {}
        self._document = document
        self._at: At = ("devices", name)
        self._entry = document.value.devices[name]
        self._local_target = local_target

    def check(self, known_targets: Collection[str] | None) -> None:
        """ConfigError for the first rule that the entry breaks."""
        self._check_target(known_targets)
        self._check_groups()
        self._check_quarantine()
        if self._entry.transport == "local":
            self._check_local()
        else:
            self._check_address()
            self._check_keys()

    def device(self) -> Device:
        """The merged device; fills `origins` on the way."""
        entry = self._entry
        for key in ("target", "transport", "address", "host_key", "groups", "quarantine"):
            if (*self._at, key) in self._document.lines:
                self._remember(key, _Found(None, (*self._at, key), ""))
        device = Device(
            name=self.name,
            target=entry.target or self._local_target(),
            transport=entry.transport,
            address=entry.address or "",
            host_keys=_listed(entry.host_key),
            ssh=self._ssh() if entry.transport == "ssh" else SshSettings(),
            groups=entry.groups,
            tags=self._tags(),
            quarantine=entry.quarantine,
            lease=self._merged(("lease",)),
        )
        work_dir = self._merged(("work_dir",))
        return device if work_dir is None else replace(device, work_dir=work_dir)

    # --- parts ---

    def _ssh(self) -> SshSettings:
        values = {key: self._merged(("ssh", key)) for key in SshEntry.__struct_fields__}
        jump_keys = _listed(values.pop("jump_host_key"))
        if values["jump"] is not None and not jump_keys:
            host = _JUMP.fullmatch(values["jump"])
            address = (host["six"] or host["host"]) if host else "ADDRESS"
            message = f"device {self.name} jumps through {values['jump']}, which has no ssh.jump_host_key"
            hint = f"edgebench devices scan {address}  prints it; write it beside jump"
            raise self._document.error((*self._at, "ssh", "jump"), message, hint=hint)
        if values["port"] is None:
            del values["port"]
        return SshSettings(**values, jump_host_keys=jump_keys)

    def _tags(self) -> dict[str, str]:
        file = self._document.value
        keys = [*self._entry.tags, *(key for group in self._entry.groups for key in file.groups[group].tags)]
        return {key: str(self._merged(("tags", key))) for key in dict.fromkeys(keys)}

    # --- layers ---

    def _merged(self, key: tuple[str, ...]) -> Any:
        """The strongest value of a key, or None; remembers where it was written."""
        found = self._strongest(key)
        if found is None:
            return None
        self._remember(".".join(key), found)
        return found.value

    def _strongest(self, key: tuple[str, ...]) -> _Found | None:
        file = self._document.value
        own = _value(self._entry, key)
        if own is not None:
            return _Found(own, (*self._at, *key), "")
        grouped = [
            _Found(value, ("groups", group, *key), f"group {group}")
            for group in self._entry.groups
            if (value := _value(file.groups[group], key)) is not None
        ]
        self._check_agree(key, grouped)
        if grouped:
            return grouped[0]
        value = _value(file.defaults, key)
        return None if value is None else _Found(value, ("defaults", *key), "defaults")

    def _check_agree(self, key: tuple[str, ...], grouped: list[_Found]) -> None:
        for other in grouped[1:]:
            if other.value != grouped[0].value:
                name = ".".join(key)
                said = " and ".join(
                    f"{_text(found.value)} from {found.layer} (line {self._document.line(*found.at)})"
                    for found in (grouped[0], other)
                )
                message = f"device {self.name} gets two values of {name}: {said}"
                hint = f"set {name} at the device, or make the groups agree"
                raise self._document.error((*self._at, "groups"), message, hint=hint)

    def _remember(self, key: str, found: _Found) -> None:
        layer = f" ({found.layer})" if found.layer else ""
        self.origins[key] = f"{self._document.source}:{self._document.line(*found.at)}{layer}"

    # --- rules ---

    def _check_target(self, known: Collection[str] | None) -> None:
        target = self._entry.target
        if target is None:
            if self._entry.transport == "ssh":
                hint = "edgebench targets list  shows what there is"
                raise self._document.error(self._at, f'{place(self._at)} lacks the key "target"', hint=hint)
            return
        if known is not None and target not in known:
            message = f"{place(self._at)} names the target {quoted(target)}, which is not there"
            raise self._document.error((*self._at, "target"), message, hint=did_you_mean(target, known))

    def _check_groups(self) -> None:
        known = self._document.value.groups
        for index, group in enumerate(self._entry.groups):
            at = (*self._at, "groups", index)
            if group not in known:
                message = f"{place(self._at)} is in the group {quoted(group)}, which is not there"
                raise self._document.error(at, message, hint=did_you_mean(group, known))
            if group in self._entry.groups[:index]:
                message = f"{place(self._at)} is twice in the group {group}"
                raise self._document.error(at, message, hint="remove one of the two")

    def _check_quarantine(self) -> None:
        at = (*self._at, "quarantine")
        if at in self._document.lines and not (self._entry.quarantine or "").strip():
            message = f"{place(self._at)} is in quarantine without a reason"
            hint = 'say why: quarantine: "eMMC read errors since 2026-11-02"; or remove the key'
            raise self._document.error(at, message, hint=hint)

    def _check_local(self) -> None:
        for key in ("address", "host_key", "ssh"):
            if (*self._at, key) in self._document.lines:
                message = f"{place(self._at)} is this computer (transport: local) and has {key} as well"
                hint = f"remove {key}, or write transport: ssh"
                raise self._document.error((*self._at, key), message, hint=hint)
        self._check_work_dir()

    def _check_address(self) -> None:
        address = self._entry.address
        if not address:
            message = f'{place(self._at)} lacks the key "address"'
            hint = "write its host name or IP address; this computer itself has transport: local instead"
            raise self._document.error(self._at, message, hint=hint)
        if not is_address(address):
            message = f"{place(self._at)}.address is {quoted(address)}, which is no host name or IP address"
            hint = "the port belongs to ssh.port, the login to ssh.user"
            raise self._document.error((*self._at, "address"), message, hint=hint)
        self._check_work_dir()

    def _check_keys(self) -> None:
        if not _listed(self._entry.host_key):
            message = f"{place(self._at)} has no host_key, so nobody could tell it from an impostor"
            hint = f"edgebench devices scan {self._entry.address}  prints the entry to paste"
            raise self._document.error(self._at, message, hint=hint)
        _check_host_keys(self._document, (*self._at, "host_key"), self._entry.host_key)

    def _check_work_dir(self) -> None:
        found = self._strongest(("work_dir",))
        if found is not None and not _is_work_dir(found.value):
            message = f"{place(found.at)} is {quoted(found.value)}, which is no folder to give to edgebench"
            hint = "write a folder for edgebench alone: .edgebench (below the home), or /var/lib/edgebench"
            raise self._document.error(found.at, message, hint=hint)


def _value(entry: Record, key: tuple[str, ...]) -> Any:
    """The value at a key path of an entry, or None."""
    value: Any = entry
    for step in key:
        value = value.get(step) if isinstance(value, dict) else getattr(value, step, None)
        if value is None:
            return None
    return value


def _text(value: object) -> str:
    return quoted(", ".join(value)) if isinstance(value, tuple) else quoted(str(value))


# --- picking and showing -------------------------------------------------------------------------


def _matches(inventory: Inventory, term: str) -> tuple[Device, ...]:
    """The devices that one term of a selector picks; UserError when there is none."""
    kind, colon, word = term.partition(":")
    if colon and kind not in _KINDS:
        hint = f"write a name, all, or one of: {', '.join(f'{known}:...' for known in sorted(_KINDS))}"
        raise UserError(f"{quoted(term)} is no selector", hint=hint)
    pick = _KINDS[kind] if colon else _by_name
    found = tuple(device for device in inventory.devices if pick(device, word if colon else term))
    if not found:
        where = "the built-in inventory" if inventory.source == BUILT_IN else inventory.source
        raise UserError(f"{quoted(term)} matches no device of {where}", hint=_selector_hint(inventory, term))
    return found


def _by_name(device: Device, word: str) -> bool:
    return word == "all" or fnmatchcase(device.name, word)


_KINDS: dict[str, Callable[[Device, str], bool]] = {
    "group": lambda device, word: word in device.groups,
    "tag": lambda device, word: word in _tag_words(device),
    "target": lambda device, word: device.target == word,
}


def _tag_words(device: Device) -> Iterable[str]:
    return (f"{key}={value}" for key, value in device.tags.items())


def _selector_hint(inventory: Inventory, term: str) -> str:
    kind, colon, _ = term.partition(":")
    devices = inventory.devices
    known = {
        "group": {f"group:{group}" for device in devices for group in device.groups},
        "tag": {f"tag:{word}" for device in devices for word in _tag_words(device)},
        "target": {f"target:{device.target}" for device in devices},
    }
    return did_you_mean(term, known[kind] if colon else ("all", *(device.name for device in devices)))


def _shown(device: Device) -> Iterator[tuple[str, str]]:
    yield "target", device.target
    yield "transport", device.transport
    if device.transport == "ssh":
        yield "address", device.address
        yield "host_key", ", ".join(device.host_keys)
        yield "ssh.user", device.ssh.user or "(your own login name)"
        yield "ssh.port", str(device.ssh.port)
        yield "ssh.key_file", device.ssh.key_file or "(the ssh agent and the usual key files)"
        if device.ssh.jump:
            yield "ssh.jump", device.ssh.jump
            yield "ssh.jump_host_key", ", ".join(device.ssh.jump_host_keys)
    yield "work_dir", device.work_dir
    if device.lease is not None:
        yield "lease", device.lease
    if device.groups:
        yield "groups", ", ".join(device.groups)
    for key, value in device.tags.items():
        yield f"tags.{key}", value
    if device.quarantine is not None:
        yield "quarantine", device.quarantine
