"""Words of the training steps: what each takes, what training is told and tells, and what comes out.

A step's parameters are one closed record. Training needs the network itself (PyTorch) and its data, so the
user names a function that gives both; an ONNX file is what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from edgebench.compress.base import Options
from edgebench.records import ModelInfo, Record

REVISION = 1  # raised whenever the same steps would make other weights
TOOLS = ("torch", "torch-pruning", "onnxscript", "onnx", "numpy")
EXTRA = "pip install 'edgebench[compress]'"

Module = Any  # torch.nn.Module
Tensor = Any  # torch.Tensor
Tensors = tuple[Tensor, ...]
Change = dict[str, Any]  # how a network's structure departs from the factory's; plain JSON

Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Names = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=300)], ...], msgspec.Meta(max_length=10_000)
]
Device = Literal["auto", "cpu", "cuda"]
Importance = Literal["l1", "l2", "taylor", "lamp", "fpgm", "random"]
HeadImportance = Literal["l1", "l2", "taylor", "random"]


# --- parameters -----------------------------------------------------------------------------------


class Passes(Options, frozen=True):
    """How long and how fast to train, and by whose answers.

    AdamW; its rate falls from `learning_rate` to 0 along a cosine. `patience` epochs without a better score
    on the validation set end it early (0: never); the best epoch is what stays. `teacher` original: the
    network as it was before the first step that made it smaller teaches as well, and the loss is
    alpha * L + (1 - alpha) * temperature^2 * KL.
    """

    epochs: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 10
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1e-2
    patience: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    teacher: Literal["none", "original"] = "none"
    alpha: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.3
    temperature: Annotated[float, msgspec.Meta(gt=0, le=100)] = 4.0


class FineTune(Passes, frozen=True):
    """Training as it is, of whatever the steps before left."""

    def label(self) -> str:
        """The variant's name."""
        return "tuned"


class Distill(Passes, frozen=True, kw_only=True):
    """Training of another network, `student`, by the answers of the one so far.

    `student` is module:function and returns the untrained network. `features` pairs layers of the student
    with layers of the teacher whose outputs it is to imitate: their mean squared distance is added to the
    loss `feature_weight` times.
    """

    student: Annotated[str, msgspec.Meta(min_length=3, max_length=300)]
    epochs: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 60
    teacher: Literal["none", "original", "before"] = "before"  # type: ignore[assignment]  # one more
    features: dict[str, str] = {}
    feature_weight: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0

    def label(self) -> str:
        """The variant's name."""
        return "student" if self.teacher == "none" else "distilled"


class ChannelPrune(Options, frozen=True):
    """Removal of the least important channels: a smaller network of the same kind.

    `ratio` of the channels of every layer, or with scope global of all layers ranked together. `ignore` are
    layers that keep their outputs; those that make the network's outputs always do. `iterations` removes in
    so many equal parts, each followed by `epochs_between` of training. Channels stay multiples of `round_to`.
    """

    ratio: Share = 0.5
    importance: Importance = "l2"
    scope: Literal["layer", "global"] = "layer"
    ignore: Names = ()
    round_to: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    iterations: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    epochs_between: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1e-3

    def label(self) -> str:
        """The variant's name: "channels-50"."""
        return f"channels-{100 * self.ratio:g}"


class LayerDrop(Options, frozen=True):
    """Removal of the `count` blocks that the validation set misses least, one after the other.

    A block can go where its output has its input's shape; `among` names those that may, else all of them.
    """

    count: Count = 1
    among: Names = ()

    def label(self) -> str:
        """The variant's name: "layers-10"."""
        return f"layers-{self.count}"


class HeadPrune(Options, frozen=True):
    """Removal of a share of the heads of every attention, the least important ones; one stays at least."""

    ratio: Share = 0.5
    importance: HeadImportance = "taylor"
    ignore: Names = ()

    def label(self) -> str:
        """The variant's name: "heads-50"."""
        return f"heads-{100 * self.ratio:g}"


class MlpPrune(Options, frozen=True):
    """Removal of a share of the hidden neurons of every transformer's MLP; the embedding keeps its width."""

    ratio: Share = 0.5
    importance: HeadImportance = "taylor"
    ignore: Names = ()
    round_to: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8

    def label(self) -> str:
        """The variant's name: "mlp-50"."""
        return f"mlp-{100 * self.ratio:g}"


class Sparsify(Passes, frozen=True):
    """The smallest weights become zero and stay zero in all training that follows, this step's own too.

    `share` of every layer's weights, or with scope global of all layers ranked together; pattern 2:4 zeroes
    two of every four neighbours along the input channels instead.
    """

    share: Share = 0.5
    pattern: Literal["unstructured", "2:4"] = "unstructured"
    scope: Literal["layer", "global"] = "layer"
    ignore: Names = ()

    def label(self) -> str:
        """The variant's name: "sparse-80" or "sparse-2of4"."""
        return "sparse-2of4" if self.pattern == "2:4" else f"sparse-{100 * self.share:g}"


class Qat(Passes, frozen=True):
    """Training with weights and layer inputs rounded to 8 bits; what comes out is float, on that grid.

    `bits` of 7 is for presets that keep a bit free. Quantize the result by the preset of each runtime.
    """

    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1e-4
    bits: Literal[7, 8] = 8

    def label(self) -> str:
        """The variant's name."""
        return "qat"


STEPS: Mapping[str, type[Options]] = {
    "channel-prune": ChannelPrune,
    "layer-drop": LayerDrop,
    "head-prune": HeadPrune,
    "mlp-prune": MlpPrune,
    "sparsify": Sparsify,
    "distill": Distill,
    "fine-tune": FineTune,
    "qat": Qat,
}
STRUCTURAL = (ChannelPrune, LayerDrop, HeadPrune, MlpPrune, Distill)


# --- what goes in and what comes out ----------------------------------------------------------------


class TrainSettings(NamedTuple):
    """What all steps share. `work` is the folder of checkpoints, `name` the model's (else the factory's).

    `threads` of the processor; 0 is as many as PyTorch takes. An opset below 18 is written by PyTorch's older
    exporter, for runtimes that need it.
    """

    work: Path
    seed: int = 0
    device: Device = "auto"
    name: str = ""
    opset: int = 18
    threads: int = 0


class Metric(Record, frozen=True):
    """A score on one of the three sets: of `n` samples, with its 95 % interval where there is one."""

    name: str
    n: int
    value: float
    low: float | None = None
    high: float | None = None


class Progress(Record, frozen=True):
    """One epoch that ended: its mean loss, the score on the validation set, and the step's time left."""

    step: str
    epoch: int
    epochs: int
    loss: float
    score: float
    left_s: float


class Trained(NamedTuple):
    """What was written to `out`: the float32 model, one lineage entry a step, and the last step's scores.

    `macs` and `parameters` are those before the first step and after the last. `reused` says how many steps
    were taken from earlier work.
    """

    info: ModelInfo
    lineage: tuple[dict[str, Any], ...]
    validation: Metric
    test: Metric
    macs: tuple[int, int]
    parameters: tuple[int, int]
    reused: int = 0


Tell = Callable[[Progress], None]


class Elsewhere(NamedTuple):
    """Samples of a file that a recipe names besides the factory: which of SETS they are of, and the file.

    `digests` name the samples as `edgebench.model.samples_of` does.
    """

    which: str
    source: str
    digests: frozenset[bytes]


# --- what steps hand on -----------------------------------------------------------------------------


class Given(NamedTuple):
    """What the user's factory gave, checked. `classes` is None where the factory has a loss of its own."""

    name: str
    module: Module
    train: Any
    validation: Any
    test: Any
    example: Tensors
    loss: Callable[..., Any] | None
    metric: Callable[..., Any] | None
    soft_loss: Callable[..., Any] | None
    augment: Callable[..., Any] | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    classes: int | None
    digests: dict[str, str]


class Network(NamedTuple):
    """A network on its way through the steps: how it departs from the factory's, and what stays zero.

    `masks` has one tensor of ones and zeros for each layer, by the layer's name.
    """

    module: Module
    changes: tuple[Change, ...] = ()
    masks: dict[str, Tensor] = {}


class Work(NamedTuple):
    """What a step is given besides the network and its own options.

    `folder` is its own for checkpoints; `original` makes the network that teaches, without gradients.
    """

    given: Given
    settings: TrainSettings
    device: Any
    step: str
    folder: Path
    tell: Tell
    original: Callable[[], Module]
