"""Broken networks through the whole conversion: an artifact that holds, or an error of ours with a way out.

By default some seconds of it; `EDGEBENCH_MUTATION_S=600` makes it longer, `-k` picks bytes or structure.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgebench import model
from edgebench.convert.onnxruntime import format_options
from edgebench.convert.run import Limits
from edgebench.errors import BugError, EdgebenchError
from edgebench.fleet.plan import own_precision
from edgebench.pipeline import Cell, Prepared, Workbench, prepare
from edgebench.records import ORT_FORMATS
from tests.convert.support import pnnx_home
from tests.models.mutations import Draw, broken_bytes, broken_structure

BUDGET_S = float(os.environ.get("EDGEBENCH_MUTATION_S", "12"))  # of each of the two tests
HANGS_AFTER_S = 150.0  # several limits of LIMITS.time_s: reference, ways of converting, parity
LIMITS = Limits(time_s=30.0, memory_bytes=4 << 30)
RUNTIMES = ("onnxruntime", "openvino", "ncnn", "coreml", "tensorrt")
FORMATS = tuple(format_options(name, "x86_64") for name in ORT_FORMATS)
PLANS = (("8.2.1", "5.3"), ("8.5.2", "8.7"), ("10.3.0", "8.7"), ("11.0", "11.0"))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    for name in ("HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    home = tmp_path / "edgebench"
    home.mkdir()
    (home / "tools").symlink_to(pnnx_home() / "tools")
    made = Workbench(home, limits=LIMITS)
    yield made
    made.close()


class Budget:
    """Time for examples; when it is over, further examples are not tried, unless one has failed already."""

    def __init__(self) -> None:
        self.end_s = time.monotonic() + BUDGET_S
        self.failed = False

    @property
    def is_over(self) -> bool:
        return not self.failed and time.monotonic() > self.end_s


def _drawn(draw: Draw) -> dict[str, Any]:
    """What is to be made of the network: fields of a Cell."""
    runtime, precision = draw(st.sampled_from(RUNTIMES)), draw(st.sampled_from((None, None, "fp32", "fp16")))
    version, capability = draw(st.sampled_from(PLANS))
    plan = (("compute_capability", capability), ("tensorrt_version", version))
    options = {"tensorrt": plan, "onnxruntime": draw(st.sampled_from(FORMATS))}.get(runtime, ())
    return {"runtime": runtime, "precision": precision, "as_is": precision is None, "options": options}


def _converted(path: Path, asked: dict[str, Any], bench: Workbench) -> Prepared:
    own = own_precision(model.inspect(path))
    return prepare(Cell(model_path=str(path), **(asked | {"precision": asked["precision"] or own})), bench)


def _try(content: bytes, asked: dict[str, Any], bench: Workbench) -> None:
    path = bench.home / "m.onnx"
    path.write_bytes(content)
    started = time.monotonic()
    refusal: EdgebenchError | None = None
    try:
        made = _converted(path, asked, bench)
        assert made.parity.passed
        bench.artifacts.verify(made.artifact.digest)
    except EdgebenchError as error:
        refusal = error
    if refusal is not None:
        assert not isinstance(refusal, BugError), (refusal.message, refusal.detail)
        assert refusal.owner != "device", refusal.message
        assert refusal.message
        assert refusal.hint, refusal.message
    assert time.monotonic() - started < HANGS_AFTER_S
    assert _leftovers(bench.home) == []


def _leftovers(home: Path) -> list[str]:
    half = [*home.rglob("*.part"), *(home.parent / "tmpdir").iterdir()]
    for folder in (home / "tmp", home / "artifacts" / "tmp", home / "artifacts" / "incoming"):
        half += folder.iterdir() if folder.is_dir() else ()
    return [str(path.relative_to(home.parent)) for path in half]


@pytest.mark.timeout(BUDGET_S + 3 * HANGS_AFTER_S)
@pytest.mark.parametrize("broken", [broken_bytes, broken_structure])
def test_a_broken_network_is_refused_or_holds(broken: Callable[[Draw], bytes], bench: Workbench) -> None:
    budget = Budget()

    @given(st.data())
    @settings(
        max_examples=max(20, int(BUDGET_S * 10)),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if "EDGEBENCH_MUTATION_S" in os.environ else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    def tried(data: st.DataObject) -> None:
        content, asked = broken(data.draw), _drawn(data.draw)
        if budget.is_over:
            return
        try:
            _try(content, asked, bench)
        except BaseException:
            budget.failed = True
            shutil.copy(bench.home / "m.onnx", bench.home.parent / "failed.onnx")
            raise

    tried()
