"""Interrupted training goes on and ends with the same file; what is done is not done again."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

import pytest

from edgebench.compress import training
from edgebench.compress.base import Options
from edgebench.compress.training import ChannelPrune, Distill, FineTune, Progress, Qat, Trained, TrainSettings
from edgebench.errors import InfrastructureError, ModelError
from tests.disks import disk_of_8_mib

__all__ = ["disk_of_8_mib"]

HERE = "tests.compress.training.factories"
STEPS = [
    ("fine-tune", FineTune(epochs=2, learning_rate=2e-3)),
    ("channel-prune", ChannelPrune()),
    ("fine-tune", FineTune(epochs=2, teacher="original")),
    ("qat", Qat(epochs=2)),
]


class Stopped(Exception):
    """As a user's Ctrl-C, at an exact place."""


def _train(folder: Path, steps: list[tuple[str, Options]], stop_after: int = 0, **more: int) -> Trained:
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        if len(told) == stop_after:
            raise Stopped

    settings = TrainSettings(work=folder / "work", device="cpu", **more)
    return training.train(f"{HERE}:residual", steps, settings, out=folder / "out.onnx", tell=tell)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_interrupted_training_ends_with_the_same_file(tmp_path: Path, stop_after: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    _train(whole, STEPS)
    with pytest.raises(Stopped):
        _train(parts, STEPS, stop_after)
    assert not (parts / "out.onnx").exists()
    _train(parts, STEPS)
    assert (parts / "out.onnx").read_bytes() == (whole / "out.onnx").read_bytes()


def test_interrupted_distillation_ends_with_the_same_file(tmp_path: Path) -> None:
    student = Distill(student=f"{HERE}:small_residual", epochs=3, features={"stem": "stem"})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    _train(whole, [("distill", student)])
    with pytest.raises(Stopped):
        _train(parts, [("distill", student)], 2)
    _train(parts, [("distill", student)])
    assert (parts / "out.onnx").read_bytes() == (whole / "out.onnx").read_bytes()


def test_the_same_call_takes_all_from_the_folder_and_branches_share_what_they_can(tmp_path: Path) -> None:
    first = _train(tmp_path, STEPS)
    bytes_before = (tmp_path / "out.onnx").read_bytes()
    again = _train(tmp_path, STEPS)
    assert (first.reused, again.reused) == (0, 4)
    assert (tmp_path / "out.onnx").read_bytes() == bytes_before
    branch = _train(tmp_path, [*STEPS[:2], ("fine-tune", FineTune(epochs=1))])
    assert branch.reused == 2
    assert _train(tmp_path, STEPS[:1], seed=1).reused == 0


def test_seeds_make_different_networks_and_one_seed_the_same(tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        _train(tmp_path / name, STEPS[:1], seed=seed)
        made.append((tmp_path / name / "out.onnx").read_bytes())
    assert made[0] == made[1] != made[2]


def test_checkpoints_hold_no_objects(tmp_path: Path) -> None:
    _train(tmp_path, STEPS)
    allowed = {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch LongStorage",
    }
    files = list((tmp_path / "work").rglob("*.pt"))
    assert len(files) == len(STEPS)
    for path in files:
        with zipfile.ZipFile(path) as archive:
            name = next(each for each in archive.namelist() if each.endswith("data.pkl"))
            opcodes = pickletools.genops(archive.read(name))
            found = {argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
        assert found <= allowed


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    settings = TrainSettings(work=tmp_path / "work", device="cpu")
    steps = [("fine-tune", FineTune(epochs=5))]
    with pytest.raises(
        ModelError, match=r"epoch 3, batch 1: the loss is no number; the last good checkpoint, of epoch 2"
    ):
        training.train(f"{HERE}:loss_becomes_nan", steps, settings, out=tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
    assert len(list((tmp_path / "work").rglob("epoch.pt"))) == 1


def test_training_stops_where_the_score_rises_no_more(tmp_path: Path) -> None:
    told: list[Progress] = []
    options = FineTune(epochs=40, learning_rate=5e-3, patience=2)
    settings = TrainSettings(work=tmp_path / "work", device="cpu")
    out = tmp_path / "out.onnx"
    made = training.train(f"{HERE}:residual", [("fine-tune", options)], settings, out=out, tell=told.append)
    entry = made.lineage[0]
    assert len(told) == entry["epochs"] == entry["best_epoch"] + 2 < 40
    assert entry["validation"]["value"] == max(each.score for each in told)


def test_a_damaged_checkpoint_is_refused_with_what_to_remove(tmp_path: Path) -> None:
    _train(tmp_path, STEPS[:1])
    damaged = next((tmp_path / "work").rglob("done.pt"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(InfrastructureError) as caught:
        _train(tmp_path, STEPS[:1])
    assert str(damaged.parent) in caught.value.hint


def test_a_folder_that_takes_no_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file where the folder should be")
    with pytest.raises(InfrastructureError, match="cannot write the checkpoint"):
        _train(tmp_path, STEPS[:1])


def test_a_full_disk_stops_and_what_was_done_is_gone_on_with(tmp_path: Path, disk_of_8_mib: Path) -> None:
    filled = disk_of_8_mib / "filled"
    filled.write_bytes(b"x" * 8_000_000)
    with pytest.raises(InfrastructureError, match="cannot write the checkpoint") as caught:
        _train(disk_of_8_mib, STEPS[:1])
    assert "of its disk are free" in caught.value.message
    assert "free some disk" in caught.value.hint
    assert not list(disk_of_8_mib.rglob("*.part"))
    filled.unlink()
    _train(disk_of_8_mib, STEPS[:1])
    (tmp_path / "whole").mkdir()
    _train(tmp_path / "whole", STEPS[:1])
    assert (disk_of_8_mib / "out.onnx").read_bytes() == (tmp_path / "whole" / "out.onnx").read_bytes()
