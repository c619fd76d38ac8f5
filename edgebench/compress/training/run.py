"""Training steps one after the other: what each makes is kept, and taken from there next time."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgebench import usercode
from edgebench.compress.base import Options
from edgebench.compress.training import (
    channels,
    checkpoints,
    data,
    distillation,
    export,
    layers,
    qat,
    sparsity,
    transformers,
)
from edgebench.compress.training.base import (
    REVISION,
    STEPS,
    STRUCTURAL,
    TOOLS,
    ChannelPrune,
    Distill,
    Elsewhere,
    FineTune,
    Given,
    HeadPrune,
    LayerDrop,
    MlpPrune,
    Module,
    Network,
    Passes,
    Qat,
    Sparsify,
    Tell,
    Trained,
    TrainSettings,
    Work,
)
from edgebench.compress.training.fitting import Fitted, evaluate, fit, taught, teacher_of
from edgebench.compress.training.looking import macs_of, parameters_of
from edgebench.errors import BugError, UserError, did_you_mean
from edgebench.records import replace, to_json
from edgebench.tools import installed

Step = tuple[str, Options]


def train(
    factory: str,
    steps: Sequence[Step],
    settings: TrainSettings,
    *,
    out: Path,
    tell: Tell = lambda _: None,
    elsewhere: Sequence[Elsewhere] = (),
) -> Trained:
    """What was written to `out`: the network that `factory` names after the steps, as float32 ONNX.

    `factory` is module:function; what it returns is checked first, and a UserError shows what it should. No
    sample of its sets may be in another kind of set `elsewhere`.
    After every epoch a checkpoint is written below `settings.work`: the same call again goes on from there,
    and steps that are done are not done again, also where other steps follow them. UserError for steps in an
    impossible order; ModelError when a step cannot take the network or its loss is no number any more.
    """
    data.need_torch()
    planned = _expanded(steps)
    _refuse_order(planned)
    _refuse_places(out)
    device = _device(settings)
    given = data.given(factory, settings.seed, elsewhere)
    route = _Route(given, settings, device, tell, planned, _keys(given, planned, settings))
    done = _walked(route)
    validation = evaluate(given, done.network.module, "validation", device).metric
    test = evaluate(given, done.network.module, "test", device).metric
    lineage = [*done.lineage[:-1], {**done.lineage[-1], "test": to_json(test)}]
    info = export.write(
        done.network.module, given, settings, variant=_variant(steps), lineage=lineage, out=out
    )
    return Trained(
        info=info,
        lineage=tuple(lineage),
        validation=validation,
        test=test,
        macs=(macs_of(given, given.module), macs_of(given, done.network.module)),
        parameters=(parameters_of(given.module), parameters_of(done.network.module)),
        reused=done.reused,
    )


def revision() -> str:
    """A text that differs whenever the same steps could make other weights: ours and the tools' versions."""
    return " ".join([f"edgebench-training={REVISION}", *(f"{k}={v}" for k, v in installed(TOOLS).items())])


# --- before any work --------------------------------------------------------------------------------


def _expanded(steps: Sequence[Step]) -> list[Step]:
    """The steps, with those that repeat themselves written out."""
    return [part for name, options in steps for part in _parts(name, options)]


def _parts(name: str, options: Options) -> Iterator[Step]:
    if name not in STEPS:
        raise UserError(f'no training step "{name}"', hint=did_you_mean(name, STEPS))
    if type(options) is not STEPS[name]:
        raise BugError(f"{name} was given {type(options).__name__}")
    if not isinstance(options, ChannelPrune) or options.iterations == 1:
        yield name, options
        return
    ratio = 1 - (1 - options.ratio) ** (1 / options.iterations)
    for _ in range(options.iterations):
        yield name, replace(options, ratio=ratio, iterations=1, epochs_between=0)
        if options.epochs_between:
            yield (
                "fine-tune",
                FineTune(epochs=options.epochs_between, learning_rate=options.learning_rate),
            )


def _refuse_order(steps: Sequence[Step]) -> None:
    """UserError where a step would undo what one before it made: structure, then zeros, then the grid."""
    if not steps:
        raise UserError("no training step was named", hint=f"known: {', '.join(sorted(STEPS))}")
    zeros = grid = ""
    for name, options in steps:
        if grid:
            raise UserError(
                f"{name} after {grid} would take the weights off their 8-bit grid",
                hint=f"put {grid} last: structure first, then training, then qat",
            )
        if zeros and isinstance(options, STRUCTURAL) and not isinstance(options, LayerDrop):
            raise UserError(
                f"{name} after {zeros} would lose its zeros",
                hint=f"put {zeros} after {name}: structure first, then zeros",
            )
        zeros = name if isinstance(options, Sparsify) else zeros
        grid = name if isinstance(options, Qat) else grid


def _refuse_places(out: Path) -> None:
    if not out.parent.is_dir():
        raise UserError(f"no folder {out.parent}", hint=f"mkdir -p {out.parent}")


def _device(settings: TrainSettings) -> Any:
    import torch

    if settings.threads > 0:
        torch.set_num_threads(settings.threads)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is there, as PyTorch says", hint="device: cpu, or auto")
    wanted = settings.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


# --- one step after the other -----------------------------------------------------------------------


class _Route(NamedTuple):
    """All that is known before the first step: `keys` are the names of the steps' folders."""

    given: Given
    settings: TrainSettings
    device: Any
    tell: Tell
    steps: Sequence[Step]
    keys: Sequence[str]

    def folder(self, place: int) -> Path:
        """Where a step keeps what it makes."""
        return self.settings.work / self.keys[place]


class _Done(NamedTuple):
    """What stands after some steps."""

    network: Network
    lineage: tuple[dict[str, Any], ...] = ()
    reused: int = 0


def _keys(given: Given, steps: Sequence[Step], settings: TrainSettings) -> list[str]:
    """A name for each step that follows from everything before it: code, weights, data, seed and tools."""
    import torch

    total = hashlib.sha256()
    for name, each in given.module.state_dict().items():
        total.update(f"{name} {list(each.shape)} {each.dtype}".encode())
        total.update(each.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    before: object = [
        revision(),
        given.name,
        _code(given.name),
        total.hexdigest(),
        given.digests,
        settings.seed,
    ]
    keys = []
    for name, options in steps:
        student = options.student if isinstance(options, Distill) else ""
        before = checkpoints.key(before, name, to_json(options), _code(student) if student else "")
        keys.append(before)
    return keys


def _code(name: str) -> str:
    return hashlib.sha256(usercode.source(name)).hexdigest()


def _walked(route: _Route) -> _Done:
    """The last step's result; steps that an earlier call finished are taken from their folders."""
    done = _begun(route)
    for place in range(done.reused, len(route.steps)):
        work = _work(route, place)
        network, fitted = _step(route.steps[place][1], done.network, work)
        entry = _entry(route, place, network, fitted)
        checkpoints.finish(work.folder, network, entry)
        done = _Done(network, (*done.lineage, entry), done.reused)
    return done


def _begun(route: _Route) -> _Done:
    """The longest beginning that is done already; the factory's own network where nothing is."""
    for count in range(len(route.steps), 0, -1):
        found = [_kept(route, place) for place in range(count)]
        last = found[-1]
        if last is not None and all(each is not None for each in found):
            entries = tuple(each.entry for each in found if each is not None)
            return _Done(last.network, entries, count)
    return _Done(Network(copy.deepcopy(route.given.module)))


def _kept(route: _Route, place: int) -> checkpoints.Kept | None:
    return checkpoints.kept(route.folder(place), route.given, route.settings.seed)


def _work(route: _Route, place: int) -> Work:
    return Work(
        given=route.given,
        settings=route.settings,
        device=route.device,
        step=route.steps[place][0],
        folder=route.folder(place),
        tell=route.tell,
        original=lambda: _original(route, place),
    )


def _original(route: _Route, place: int) -> Module:
    """The network as it was before the first step that made it smaller."""
    first = next(
        (at for at in range(place) if isinstance(route.steps[at][1], (*STRUCTURAL, Sparsify))), place
    )
    kept = _kept(route, first - 1) if first else None
    return copy.deepcopy(route.given.module) if kept is None else kept.network.module


def _step(options: Options, network: Network, work: Work) -> tuple[Network, Fitted | None]:
    """One step; the order is that of the table of steps."""
    data.seeded(work.settings.seed)
    trained: dict[type[Options], Callable[..., tuple[Network, Fitted]]] = {
        Sparsify: sparsity.run,
        Distill: distillation.run,
        FineTune: _tuned,
        Qat: qat.run,
    }
    structural: dict[type[Options], Callable[..., Network]] = {
        ChannelPrune: channels.run,
        LayerDrop: layers.run,
        HeadPrune: transformers.heads,
        MlpPrune: transformers.neurons,
    }
    if type(options) in trained:
        return trained[type(options)](network, work, options)
    return structural[type(options)](network, work, options), None


def _tuned(network: Network, work: Work, options: Passes) -> tuple[Network, Fitted]:
    return fit(network, work, options, taught(work, options, teacher_of(work, options)))


# --- what is told -----------------------------------------------------------------------------------


def _entry(route: _Route, place: int, network: Network, fitted: Fitted | None) -> dict[str, Any]:
    """A step's entry of the lineage: what it was given, and how the network does on the validation set."""
    name, options = route.steps[place]
    given = route.given
    score = evaluate(given, network.module, "validation", route.device).metric
    told: dict[str, Any] = {
        "step": name,
        "settings": to_json(options),
        "seed": route.settings.seed,
        "versions": installed(TOOLS),
        "validation": to_json(score),
        "macs": macs_of(given, network.module),
        "parameters": parameters_of(network.module),
    }
    if place == 0:
        told["factory"] = given.name
        told["data"] = given.digests["train"]
    if fitted is not None:
        told["epochs"], told["best_epoch"] = fitted.epochs, fitted.best_epoch
    return told


def _variant(steps: Sequence[Step]) -> str:
    """The steps' labels; fp32 where the network was trained and nothing else, so that others are like it."""
    if all(isinstance(options, FineTune) for _, options in steps):
        return "fp32"
    return "-".join(options.label() for _, options in steps)
