"""Training and evaluating a network: one loop for every step that trains, with checkpoints by the epoch.

An interrupted loop goes on with the epoch that it was in and ends with the same weights: random generators
are seeded anew for each epoch, so their states need not be kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from edgebench import accuracy, comparison, usercode
from edgebench.compress.training.base import (
    Given,
    Metric,
    Module,
    Network,
    Passes,
    Progress,
    Tensor,
    Tensors,
    Work,
)
from edgebench.compress.training.checkpoints import EPOCH, load, save
from edgebench.compress.training.data import Batch, batches, outputs_of, seeded
from edgebench.errors import ModelError, UserError

ALPHA = 0.05
LARGEST_GRADIENT = 10.0  # of all weights together; one bad batch is not to throw the network away
NEGATIVE_LOSS = "negative loss"  # the score where a factory has a loss of its own and no metric


class Objective(NamedTuple):
    """What training makes small: (a batch on the device, the outputs) -> the loss.

    `beside` is trained with the network and thrown away after it: what feature distillation needs. `close`
    takes what was hooked into networks out again.
    """

    loss: Callable[[Batch, Tensors], Tensor]
    beside: Module | None = None
    close: Callable[[], None] = lambda: None


class Evaluation(NamedTuple):
    """How well a network does on one set."""

    metric: Metric
    loss: float


class Fitted(NamedTuple):
    """How training went: epochs done, the one whose weights stayed, the last mean loss."""

    epochs: int
    best_epoch: int
    loss: float | None


# --- the loss ---------------------------------------------------------------------------------------


def hard_loss(given: Given) -> Callable[[Batch, Tensors], Tensor]:
    """The factory's loss, else cross entropy of class labels."""
    import torch

    def loss(batch: Batch, outputs: Tensors) -> Tensor:
        if given.loss is None:
            return torch.nn.functional.cross_entropy(outputs[0], batch.targets)
        with usercode.blamed(given.name):
            return _one_number(given, "loss", given.loss(_single(outputs), batch.targets))

    return loss


def soft_loss(given: Given, temperature: float) -> Callable[[Batch, Tensors, Tensors], Tensor] | None:
    """How far a network's answers are from its teacher's; None for a detector without a `soft_loss`.

    T^2 * KL(teacher || student), both softened by the temperature T and averaged over the batch (Hinton,
    Vinyals and Dean 2015, arXiv 1503.02531).
    """
    from torch.nn import functional

    def classes(_batch: Batch, outputs: Tensors, taught: Tensors) -> Tensor:
        own = functional.log_softmax(outputs[0] / temperature, dim=1)
        other = functional.log_softmax(taught[0] / temperature, dim=1)
        return temperature**2 * functional.kl_div(own, other, reduction="batchmean", log_target=True)

    def theirs(batch: Batch, outputs: Tensors, taught: Tensors) -> Tensor:
        if given.soft_loss is None:
            return outputs[0].sum() * 0
        with usercode.blamed(given.name):
            made = given.soft_loss(_single(outputs), _single(taught), batch.targets)
        return _one_number(given, "soft_loss", made)

    if given.soft_loss is not None:
        return theirs
    return classes if given.classes is not None else None


def taught(work: Work, passes: Passes, teacher: Module | None) -> Objective:
    """The loss of a step whose options name a teacher, or none."""
    hard = hard_loss(work.given)
    if teacher is None:
        return Objective(hard)
    soft = soft_loss(work.given, passes.temperature)
    if soft is None:
        raise no_soft_loss(work.given)

    def loss(batch: Batch, outputs: Tensors) -> Tensor:
        answers = soft(batch, outputs, answers_of(work.given, teacher, batch))
        return passes.alpha * hard(batch, outputs) + (1 - passes.alpha) * answers

    return Objective(loss)


def teacher_of(work: Work, passes: Passes) -> Module | None:
    """The teacher that a step's options name, ready to answer."""
    return work.original().to(work.device).eval() if passes.teacher == "original" else None


def answers_of(given: Given, teacher: Module, batch: Batch) -> Tensors:
    """The teacher's outputs for a batch, without gradients."""
    import torch

    with torch.no_grad(), usercode.blamed(given.name):
        made = teacher(*batch.inputs)
    return outputs_of(made, given.name)


def no_soft_loss(given: Given) -> UserError:
    """The error for a teacher of a network that is no classifier."""
    return UserError(
        f"{given.name}: a network with a loss of its own cannot be taught by answers as it is",
        hint='return "soft_loss": a function of (outputs, teacher\'s outputs, targets); or name `features`',
    )


def _one_number(given: Given, what: str, value: Any) -> Tensor:
    import torch

    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise UserError(
            f"{given.name}: its {what} returned {type(value).__name__}, not a tensor of one number",
            hint="return the mean over the batch, such as losses.mean()",
        )
    return value.reshape(())


def _single(outputs: Tensors) -> Any:
    """As the network returned it: its one output, or the tuple."""
    return outputs[0] if len(outputs) == 1 else outputs


# --- training ---------------------------------------------------------------------------------------


def fit(network: Network, work: Work, passes: Passes, objective: Objective) -> tuple[Network, Fitted]:
    """The network after training, its weights those of the epoch that did best on the validation set.

    ModelError when the loss is no number any more; the checkpoint of the last good epoch stays.
    """
    module = network.module.to(work.device)
    if objective.beside is not None:
        objective.beside.to(work.device)
    run = _Run(work, passes, objective, network, _optimizer(module, passes, objective))
    try:
        state = _trained(run)
    finally:
        objective.close()
    if state.best:
        module.load_state_dict(state.best)
    return network._replace(module=module.eval()), Fitted(state.epoch, state.best_epoch, state.loss)


class _Run(NamedTuple):
    """One loop: what is trained, how, and by what."""

    work: Work
    passes: Passes
    objective: Objective
    network: Network
    optimizer: Any


class _State(NamedTuple):
    """Where a loop stands after so many epochs: 0 before the first."""

    epoch: int = 0
    best: dict[str, Tensor] = {}
    best_epoch: int = 0
    best_score: float = -math.inf
    loss: float | None = None


def _trained(run: _Run) -> _State:
    state = _resumed(run)
    began_s, first = time.monotonic(), state.epoch
    while state.epoch < run.passes.epochs and not _is_over(run, state):
        loss = _one_epoch(run, state.epoch)
        done = evaluate(run.work.given, run.network.module, "validation", run.work.device)
        state = _after(run, state, loss, done.metric.value)
        _keep(run, state)
        each_s = (time.monotonic() - began_s) / (state.epoch - first)
        run.work.tell(
            Progress(
                step=run.work.step,
                epoch=state.epoch,
                epochs=run.passes.epochs,
                loss=loss,
                score=done.metric.value,
                left_s=each_s * (run.passes.epochs - state.epoch),
            )
        )
    return state


def _is_over(run: _Run, state: _State) -> bool:
    """Whether the score has not risen for as many epochs as the options have patience."""
    return 0 < run.passes.patience <= state.epoch - state.best_epoch


def _after(run: _Run, before: _State, loss: float, score: float) -> _State:
    if not math.isfinite(score) or score <= before.best_score:
        return before._replace(epoch=before.epoch + 1, loss=loss)
    best = {name: each.detach().cpu().clone() for name, each in run.network.module.state_dict().items()}
    epoch = before.epoch + 1
    return _State(epoch, best, epoch, score, loss)


def _optimizer(module: Module, passes: Passes, objective: Objective) -> Any:
    import torch

    parameters = [*module.parameters(), *(objective.beside.parameters() if objective.beside else ())]
    for each in parameters:
        each.requires_grad_(True)
    return torch.optim.AdamW(parameters, lr=passes.learning_rate, weight_decay=passes.weight_decay)


def _one_epoch(run: _Run, epoch: int) -> float:
    """The mean loss of one pass over the training set."""
    import torch

    given, module, device = run.work.given, run.network.module, run.work.device
    module.train()
    seeded(run.work.settings.seed * 1_000_003 + epoch)
    rate = run.passes.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / run.passes.epochs))
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    total, n = 0.0, 0
    for place, batch in enumerate(_training(given, device), start=1):
        with usercode.blamed(given.name):
            made = module(*batch.inputs)
        loss = run.objective.loss(batch, outputs_of(made, given.name))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _no_number(run, epoch, place)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), LARGEST_GRADIENT)
        run.optimizer.step()
        keep_zeros(run.network)
        total, n = total + value * batch.n, n + batch.n
    return total / n if n else math.nan


def _training(given: Given, device: Any) -> Iterator[Batch]:
    """The batches of a pass over the training set, augmented, on the device.

    A last batch of one sample is left out where others were larger: BatchNorm has no variance of it.
    """
    for place, batch in enumerate(batches(given, "train")):
        if batch.n == 1 and place:
            continue
        if given.augment is not None:
            with usercode.blamed(given.name):
                made = given.augment(_single(batch.inputs), batch.targets)
                inputs, targets = made
            batch = Batch(inputs if isinstance(inputs, tuple) else (inputs,), targets)
        yield moved(batch, device)


def moved(batch: Batch, device: Any) -> Batch:
    """The batch on a device."""
    return Batch(tuple(each.to(device) for each in batch.inputs), _moved(batch.targets, device))


def _moved(value: Any, device: Any) -> Any:
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(_moved(each, device) for each in value)
    if isinstance(value, dict):
        return {name: _moved(each, device) for name, each in value.items()}
    return value


def keep_zeros(network: Network) -> None:
    """Set the weights that the masks hold at zero to zero, in place."""
    import torch

    with torch.no_grad():
        for name, mask in network.masks.items():
            layer = network.module.get_submodule(name)
            weights = getattr(layer, "parametrizations", None)
            weight = layer.weight if weights is None else weights.weight.original
            weight.mul_(mask.to(weight.device))


def _no_number(run: _Run, epoch: int, place: int) -> ModelError:
    kept = run.work.folder / EPOCH
    good = f"the last good checkpoint, of epoch {epoch}, is {kept}" if epoch else "no epoch was done"
    where = f"{run.work.given.name}: {run.work.step}: epoch {epoch + 1}, batch {place}"
    return ModelError(
        f"{where}: the loss is no number; {good}",
        hint=f"a lower learning_rate than {run.passes.learning_rate:g}; or a loss that cannot overflow",
    )


# --- checkpoints ------------------------------------------------------------------------------------


def _keep(run: _Run, state: _State) -> None:
    beside = run.objective.beside
    save(
        run.work.folder / EPOCH,
        {
            "epoch": state.epoch,
            "module": run.network.module.state_dict(),
            "beside": {} if beside is None else beside.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "best": state.best,
            "best_epoch": state.best_epoch,
            "best_score": state.best_score,
            "loss": state.loss,
        },
    )


def _resumed(run: _Run) -> _State:
    """Where an interrupted loop stood, its weights put in place; the beginning where there was none."""
    kept = load(run.work.folder / EPOCH)
    if kept is None:
        return _State()
    run.network.module.load_state_dict(kept["module"])
    if run.objective.beside is not None:
        run.objective.beside.load_state_dict(kept["beside"])
    run.optimizer.load_state_dict(kept["optimizer"])
    return _State(kept["epoch"], kept["best"], kept["best_epoch"], kept["best_score"], kept["loss"])


# --- evaluating -------------------------------------------------------------------------------------


def evaluate(given: Given, module: Module, which: str, device: Any) -> Evaluation:
    """The score of a network on one of the three sets, with its interval, and its mean loss."""
    import torch

    module = module.to(device).eval()
    hard = hard_loss(given)
    total, n = 0.0, 0
    outputs: list[Tensors] = []
    targets: list[Any] = []
    with torch.no_grad():
        for batch in batches(given, which):
            there = moved(batch, device)
            with usercode.blamed(given.name):
                made = module(*there.inputs)
            answer = outputs_of(made, given.name)
            total, n = total + float(hard(there, answer)) * batch.n, n + batch.n
            outputs.append(tuple(each.cpu() for each in answer))
            targets.append(batch.targets)
    joined = tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
    return Evaluation(_metric(given, joined, targets, total / n), total / n)


def _metric(given: Given, outputs: Tensors, targets: list[Any], loss: float) -> Metric:
    n = int(outputs[0].shape[0])
    if given.metric is not None:
        with usercode.blamed(given.name):
            result = given.metric(_single(outputs), _joined(targets))
        scores = accuracy.scored(_plain(result), n, f"{given.name}: its metric")
    elif given.classes is not None:
        right = accuracy.hits(outputs[0].numpy(), _joined(targets).numpy())
        scores = accuracy.Scores(float(right.mean()), right.astype(float))
    else:
        return Metric(name=NEGATIVE_LOSS, n=n, value=-loss)
    name = accuracy.TOP1 if given.metric is None else getattr(given.metric, "__name__", "metric")
    low, high = _interval(scores)
    return Metric(name=name, n=n, value=scores.figure, low=low, high=high)


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _joined(targets: list[Any]) -> Any:
    """All targets of a set: tensors end to end, tuples part by part, else a list of the batches'."""
    import torch

    if all(isinstance(each, torch.Tensor) for each in targets):
        return torch.cat([each.cpu() for each in targets])
    if all(isinstance(each, tuple) for each in targets):
        return tuple(_joined(list(part)) for part in zip(*targets, strict=True))
    return targets


def _interval(scores: accuracy.Scores) -> tuple[float | None, float | None]:
    """95 %: Wilson's of a share, Student's t of other scores; none of one figure for all."""
    each = scores.each
    if each is None:
        return None, None
    if set(each.tolist()) <= {0.0, 1.0}:
        return accuracy.wilson(int(each.sum()), len(each), ALPHA)
    value = comparison.paired(each.tolist())
    return (None, None) if value is None else (value.lower(ALPHA / 2), value.upper(ALPHA / 2))
