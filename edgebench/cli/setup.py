"""What most commands need: options, settings, workbench, results store, inventory; opened late."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from edgebench import settings as settings_module
from edgebench.cli.prompts import Prompts
from edgebench.compress.presets import Processor, processor
from edgebench.convert.run import Limits
from edgebench.errors import InfrastructureError, UserError, did_you_mean
from edgebench.inventory import Inventory, load
from edgebench.pipeline import Announce, Workbench, silent
from edgebench.records import ORT_FORMATS, PRECISIONS, RUNTIMES, Target, replace
from edgebench.settings import Settings
from edgebench.store import Store, sqlite_url
from edgebench.targets import all_targets
from edgebench.tools import own_cpu_features
from edgebench.transport.base import Credentials
from edgebench.transport.connect import answer_with

F = TypeVar("F", bound=Callable[..., Any])

inventory_option = click.option(
    "--inventory",
    type=click.Path(),
    metavar="FILE",
    help="The fleet; default: ./inventory.yaml, else this computer.",
)
shape_option = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1,3,224,224",
    help="Fix an input whose shape is open, or an open size by its name: H=224.",
)
constant_option = click.option(
    "--set",
    "constants",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Make an input a constant: what depends on it alone, such as an If, is decided now.",
)
inputs_option = click.option(
    "--inputs", type=click.Path(), metavar="FILE.npz", help="Real inputs for parity, an array for each input."
)
calibration_option = click.option(
    "--calibration", type=click.Path(), metavar="FILE.npz", help="Samples that int8 is calibrated with."
)
dataset_options = (
    click.option(
        "--dataset",
        metavar="FILE.npz|DIR|M:F",
        help="Labelled samples to measure accuracy on: a file, a folder of pictures, or a function of yours.",
    ),
    click.option(
        "--preprocess",
        metavar="FILE",
        help="How pictures become inputs; default: preprocess.yaml in their folder.",
    ),
    click.option("--labels-key", metavar="NAME", help='The labels in them; default: "labels".'),
    click.option("--metric", metavar="top1|map:M:F|M:F", help="How answers are judged; default: top1."),
    click.option("--output", metavar="NAME", help="The output that top1 looks at; default: the first."),
    click.option(
        "--accuracy-on-device", is_flag=True, help="By what the device computes, not by this computer."
    ),
)
cut_nms_option = click.option(
    "--cut-nms", is_flag=True, help="End before NonMaxSuppression: return its boxes and scores instead."
)
ort_format_option = click.option(
    "--ort-format",
    type=click.Choice(ORT_FORMATS),
    default=ORT_FORMATS[0],
    show_default=True,
    help="For onnxruntime: the ONNX file as it is, its nodes fused beforehand, or .ort.",
)


def read_settings(inventory: str | None = None) -> Settings:
    """The settings of this call; the flag for the inventory wins over all else."""
    return settings_module.load(Path(), os.environ, {"inventory": inventory})


def ask_for_secrets() -> Credentials:
    """What a login needs and nothing else gives, the person at this terminal is asked for from now on."""
    credentials = Prompts().credentials()
    answer_with(credentials)
    return credentials


def read_inventory(settings: Settings) -> Inventory:
    """All devices of the fleet; those that say nothing of their lease as the settings do."""
    ask_for_secrets()
    found = load(settings.inventory, extra_targets=settings.targets)
    return replace(
        found, devices=tuple(replace(each, lease=each.lease or settings.lease) for each in found.devices)
    )


def read_targets(settings: Settings) -> dict[str, Target]:
    """All kinds of device, by name."""
    return all_targets(settings.targets)


@contextmanager
def workbench(settings: Settings, announce: Announce = silent) -> Iterator[Workbench]:
    """The workbench in the home folder, closed at the end."""
    limits = Limits(time_s=settings.convert_timeout_s, memory_bytes=settings.convert_memory_mib << 20)
    _make_home(settings.home)
    bench = Workbench(
        settings.home, limits=limits, announce=announce, build_timeout_s=settings.build_timeout_s
    )
    try:
        yield bench
    finally:
        bench.close()


@contextmanager
def results(settings: Settings) -> Iterator[Store]:
    """The results store, closed at the end."""
    _make_home(settings.home)
    with Store(settings.store_url or sqlite_url(settings.home / "store.sqlite")) as store:
        yield store


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InfrastructureError(
            f"the home folder {home} cannot be made: {error.strerror}",
            hint="set EDGEBENCH_HOME to a folder you may write to",
        ) from error


def this_arch() -> str:
    """The processor of this computer, in the words of targets."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def processor_of(arch: str | None) -> Processor:
    """The processor that int8 is made for: this one with its instructions, or of a kind that was named."""
    here = this_arch()
    return processor(arch or here, own_cpu_features() if arch in (None, here) else None)


def words(text: str | None) -> tuple[str, ...]:
    """The words of a comma-separated option, in order, each once."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def runtimes_of(text: str | None) -> tuple[str, ...]:
    """The runtimes of a comma-separated option; UserError for an unknown one."""
    return _known(words(text), RUNTIMES, "runtime")


def precisions_of(text: str | None) -> tuple[str, ...]:
    """The precisions of a comma-separated option; UserError for an unknown one."""
    return _known(words(text), (*PRECISIONS, "as-is"), "precision")


def with_options(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """A decorator that adds several options, the first on top."""

    def decorate(command: F) -> F:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


def _known(chosen: tuple[str, ...], known: tuple[str, ...], what: str) -> tuple[str, ...]:
    for word in chosen:
        if word not in known:
            raise UserError(f'no {what} "{word}"', hint=did_you_mean(word, known))
    return chosen
