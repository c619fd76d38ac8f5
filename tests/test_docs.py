"""Pages of docs/ that are made from the code are as it makes them; EDGEBENCH_UPDATE_DOCS=1 writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgebench.convert.base import CONVERTERS, converter
from edgebench.records import ORT_FORMATS, PRECISIONS
from edgebench.targets import all_targets

DOCS = Path(__file__).parent.parent / "docs"


def runtimes_page() -> Iterator[str]:
    """docs/runtimes.md, line by line."""
    yield "# Runtimes: what happens to a model"
    yield ""
    yield "Made from the code: `EDGEBENCH_UPDATE_DOCS=1 .venv/bin/python -m pytest tests/test_docs.py`."
    yield ""
    yield "Every artifact is compared with the reference before it is given out; what cannot be proven is"
    yield "refused with the reason. [Core ML](coreml.md): open sizes, image inputs, and detectors that end"
    yield "before their NonMaxSuppression."
    yield ""
    yield "| runtime | " + " | ".join(PRECISIONS) + " |"
    yield "|---" * (len(PRECISIONS) + 1) + "|"
    for runtime in CONVERTERS:
        forms = converter(runtime).forms
        cells = [forms[each].what if each in forms else "refused" for each in PRECISIONS]
        yield f"| {runtime} | " + " | ".join(cells) + " |"
    yield ""
    yield "ONNX Runtime's artifact comes in the formats " + ", ".join(ORT_FORMATS) + " (`--ort-format`, or"
    yield "`ort_format` of a model in a plan): the file as it is, with its nodes fused beforehand (ONNX"
    yield "Runtime's level extended), or that in the .ort format, which fits one range of its versions."
    yield ""
    yield "## What each kind of device offers"
    yield ""
    yield "| target | " + " | ".join(CONVERTERS) + " |"
    yield "|---" * (len(CONVERTERS) + 1) + "|"
    for target in all_targets().values():
        offers = [target.runtimes.get(runtime) for runtime in CONVERTERS]
        yield f"| {target.name} | " + " | ".join(", ".join(o.precisions) if o else "" for o in offers) + " |"


def test_the_page_of_runtimes_is_as_the_code_makes_it() -> None:
    page, made = DOCS / "runtimes.md", "\n".join(runtimes_page()) + "\n"
    if os.environ.get("EDGEBENCH_UPDATE_DOCS") == "1":
        page.write_text(made, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == made
