"""Where the networks of the table come from: built here, out of published wheels, compressed elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.models.architectures import ARCHITECTURES
from tests.models.elsewhere import ELSEWHERE, compressed
from tests.models.generate import save
from tests.models.light import with_weights
from tests.models.published import LIGHT, PUBLISHED, light, published

LIGHT_PREFIX = "light-"
GROUPS = {
    "Generated": tuple(ARCHITECTURES),
    "Published": (*PUBLISHED, *(f"{LIGHT_PREFIX}{name}" for name in LIGHT)),
    "Compressed elsewhere": tuple(ELSEWHERE),
}
NETWORKS = tuple(name for names in GROUPS.values() for name in names)


class Source(NamedTuple):
    """A network's file, and what a user would say of it on the command line."""

    path: Path
    shapes: dict[str, tuple[int, ...]] = {}
    feed: str = ""
    constants: dict[str, int] = {}


def source(network: str, folder: Path) -> Source:
    """The network as a file, in `folder` unless it was downloaded; skips where there is no registry."""
    if network in ARCHITECTURES:
        return Source(save(ARCHITECTURES[network](), folder / f"{network}.onnx"))
    if network in ELSEWHERE:
        return Source(compressed(network, folder))
    if network.startswith(LIGHT_PREFIX):
        shipped = light(network.removeprefix(LIGHT_PREFIX))
        return Source(with_weights(shipped, folder / f"{network}.onnx"), feed="photo")
    known = PUBLISHED[network]
    return Source(published(network), known.shapes, known.feed, known.constants)
