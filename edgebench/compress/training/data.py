"""What the user's function returned -> network, data and example, all of it checked before any work.

Every sample is looked at once: its shape, that it is finite, its label, and its digest. A sample that stands
in two of the three sets would make the scores of one of them worthless, so that is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from edgebench import usercode
from edgebench.compress.training.base import EXTRA, Elsewhere, Given, Module, Tensors
from edgebench.errors import UserError, did_you_mean, printable

SETS = ("train", "validation", "test")
REQUIRED = ("module", *SETS, "example")
FUNCTIONS = ("loss", "metric", "soft_loss", "augment")
NAMES = ("inputs", "outputs")
_MEANT = {"train": "training", "validation": "choosing", "test": "testing"}
MOST_SAMPLES = 100_000_000  # a loader that has no end ends here

SIGNATURE = """\
def NAME():
    return {
        "module": network,      # torch.nn.Module
        "train": loader,        # anything that yields (inputs, targets) again at each pass, such as a
        "validation": loader,   # DataLoader or a list; inputs are a tensor [N, ...] or a tuple of them
        "test": loader,         # three sets that share no sample
        "example": inputs,      # a batch of two, or of more
        # as needed:
        "loss": function,       # (outputs, targets) -> a tensor of one number; else cross entropy of labels
        "metric": function,     # (outputs, targets) of a whole set -> N scores or one; else top-1
        "soft_loss": function,  # (outputs, teacher's outputs, targets) -> one number: distilling detectors
        "augment": function,    # (inputs, targets) -> the same, in training only
        "inputs": ["image"], "outputs": ["logits"],
    }"""


class Batch(NamedTuple):
    """Some samples: their inputs, each [N, ...], and the targets as the loader gave them."""

    inputs: Tensors
    targets: Any

    @property
    def n(self) -> int:
        """How many samples."""
        return int(self.inputs[0].shape[0])


def given(name: str, seed: int, elsewhere: Sequence[Elsewhere] = ()) -> Given:
    """What the factory of that name makes, checked; UserError with the signature for what is not as it says.

    The factory runs after all random generators were seeded, so that it makes the same network each time. No
    sample may be in one of its sets and in another kind of set `elsewhere`.
    """
    if not usercode.is_function_name(name):
        raise UserError(f'"{name[:100]}" names no function', hint="FILE:FUNCTION, such as mynet:build")
    seeded(seed)
    made = usercode.call(name)
    _check_keys(name, made)
    found = _found(name, made)
    found.module.float().eval()
    outputs = forward(found, found.module)
    found = found._replace(
        outputs=_names(name, "outputs", made.get("outputs"), len(outputs), "output"),
        classes=_classes(found, outputs),
    )
    return found._replace(digests=_looked_through(found, elsewhere))


def network(name: str, like: Given, seed: int) -> Module:
    """The untrained network that another function makes; UserError where it does not take the same inputs.

    It may return the network itself, or what a factory returns.
    """
    import torch

    if not usercode.is_function_name(name):
        raise UserError(f'"{name[:100]}" names no function', hint="FILE:FUNCTION, such as mynet:small")
    seeded(seed)
    made = usercode.call(name)
    module = made.get("module") if isinstance(made, Mapping) else made
    if not isinstance(module, torch.nn.Module):
        raise UserError(
            f"{name} returned {_kind(made)}, which is no torch.nn.Module",
            hint="it takes no arguments and returns the untrained network",
        )
    module = module.float().eval()
    _check_like(name, like, module)
    return module


def seeded(seed: int) -> None:
    """Seed everything that a user's loader, network or augmentation may draw from."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def forward(found: Given, module: Module) -> Tensors:
    """The outputs for the example; UserError that blames the factory where the network cannot take it."""
    import torch

    with torch.no_grad(), usercode.blamed(found.name):
        made = module(*found.example)
    return outputs_of(made, found.name)


def outputs_of(made: object, name: str) -> Tensors:
    """What a network returned as a tuple of tensors; UserError for anything else."""
    import torch

    outputs = (made,) if isinstance(made, torch.Tensor) else made
    if not isinstance(outputs, tuple | list) or not outputs:
        raise _wrong(name, f"the network returns {_kind(made)}, neither a tensor nor a tuple of tensors")
    for each in outputs:
        if not isinstance(each, torch.Tensor):
            raise _wrong(name, f"the network returns {_kind(each)} among its outputs")
    return tuple(outputs)


def batches(found: Given, which: str) -> Iterator[Batch]:
    """One pass over a set; errors of the user's loader are the user's, with the line."""
    with usercode.blamed(found.name):
        passing = iter(getattr(found, which))
    place = 0
    while True:
        with usercode.blamed(found.name):
            try:
                item = next(passing)
            except StopIteration:
                return
        place += 1
        yield _batch(found, f"{which}, batch {place}", item)


# --- what it returned -------------------------------------------------------------------------------


def _wrong(name: str, what: str) -> UserError:
    return UserError(
        f"{name}: {what}", hint=f"it is to be\n{SIGNATURE.replace('NAME', name.partition(':')[2])}"
    )


def _kind(value: object) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    return f"{kind} of shape {list(shape)}" if isinstance(shape, tuple) else f"a value of type {kind}"


def _check_keys(name: str, made: object) -> None:
    if not isinstance(made, Mapping):
        raise _wrong(name, f"returned {_kind(made)} and no dict")
    known = {*REQUIRED, *FUNCTIONS, *NAMES}
    for key in made:
        if key not in known:
            shown = printable(str(key))[:60]
            raise UserError(f'{name} returned "{shown}"', hint=did_you_mean(shown, known))
    for key in REQUIRED:
        if key not in made:
            raise _wrong(name, f'returned no "{key}"')


def _found(name: str, made: Mapping[str, Any]) -> Given:
    import torch

    if not isinstance(made["module"], torch.nn.Module):
        raise _wrong(name, f"module is {_kind(made['module'])} and no torch.nn.Module")
    for key in FUNCTIONS:
        if made.get(key) is not None and not callable(made[key]):
            raise _wrong(name, f"{key} is {_kind(made[key])} and no function")
    for key in SETS:
        _check_loader(name, key, made[key])
    example = _tensors(name, "example", made["example"])
    if example[0].shape[0] < 2:
        raise _wrong(name, f"example has {example[0].shape[0]} sample; two or more show which axis is theirs")
    return Given(
        name=name,
        module=made["module"],
        train=made["train"],
        validation=made["validation"],
        test=made["test"],
        example=example,
        loss=made.get("loss"),
        metric=made.get("metric"),
        soft_loss=made.get("soft_loss"),
        augment=made.get("augment"),
        inputs=_names(name, "inputs", made.get("inputs"), len(example), "input"),
        outputs=(),
        classes=None,
        digests={},
    )


def _check_loader(name: str, key: str, loader: object) -> None:
    if not hasattr(loader, "__iter__"):
        raise _wrong(name, f"{key} is {_kind(loader)}, which yields no batches")
    if isinstance(loader, Iterator):
        raise _wrong(name, f"{key} is used up after one pass ({type(loader).__name__}); training needs many")


def _tensors(name: str, what: str, value: object) -> Tensors:
    """Inputs as a tuple of tensors that agree in their number of samples."""
    import torch

    inputs = (value,) if isinstance(value, torch.Tensor) else value
    if not isinstance(inputs, tuple | list) or not inputs:
        raise _wrong(
            name, f"the inputs of {what} are {_kind(value)}, neither a tensor nor a tuple of tensors"
        )
    for each in inputs:
        if not isinstance(each, torch.Tensor) or each.dim() < 1:
            raise _wrong(name, f"the inputs of {what} hold {_kind(each)}")
    if len({each.shape[0] for each in inputs}) > 1:
        raise _wrong(name, f"the inputs of {what} differ in their number of samples")
    return tuple(inputs)


def _names(name: str, key: str, value: object, count: int, default: str) -> tuple[str, ...]:
    if value is None:
        return (default,) if count == 1 else tuple(f"{default}{i}" for i in range(count))
    if not isinstance(value, list | tuple) or len(value) != count or len(set(map(str, value))) != count:
        raise _wrong(name, f"{key} is to be a list of {count} different names")
    for each in value:
        if not isinstance(each, str) or not each or not each.isprintable() or len(each) > 100:
            raise _wrong(name, f"{key} holds {_kind(each)}, which is no name")
    return tuple(value)


def _classes(found: Given, outputs: Tensors) -> int | None:
    """Of a classifier, whose loss is ours; None where the factory has its own."""
    if found.loss is not None:
        return None
    if len(outputs) != 1 or outputs[0].dim() != 2 or outputs[0].shape[1] < 2:
        shapes = ", ".join(str(list(each.shape)) for each in outputs)
        raise _wrong(
            found.name, f"the network returns {shapes} and no scores [N, classes]; then it needs its own loss"
        )
    return int(outputs[0].shape[1])


# --- looking through the data -----------------------------------------------------------------------


def _batch(found: Given, where: str, item: object) -> Batch:
    """One batch of a loader, its shapes those of the example."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise _wrong(found.name, f"{where} is {_kind(item)}, not a pair of inputs and targets")
    inputs = _tensors(found.name, where, item[0])
    wanted = [(tuple(each.shape[1:]), each.dtype) for each in found.example]
    if [(tuple(each.shape[1:]), each.dtype) for each in inputs] != wanted:
        told = ", ".join(f"{each.dtype} {list(each.shape)}" for each in inputs)
        asked = ", ".join(f"{each.dtype} {['N', *each.shape[1:]]}".replace("'", "") for each in found.example)
        raise UserError(
            f"{found.name}: {where} has inputs {told}; the example's are {asked}",
            hint="let the loader give what the network takes, and the example be a batch of it",
        )
    if inputs[0].shape[0] == 0:
        raise UserError(f"{found.name}: {where} is empty", hint="leave batches without samples out")
    return Batch(inputs, item[1])


def _looked_through(found: Given, elsewhere: Sequence[Elsewhere]) -> dict[str, str]:
    """The digest of each set; UserError for whatever in the data would make training or scores worthless."""
    seen: dict[bytes, str] = {}
    digests = {}
    for which in SETS:
        total = hashlib.sha256()
        count = 0
        own = []
        for place, batch in enumerate(batches(found, which), start=1):
            where = f"{which}, batch {place}"
            _check_finite(found, where, batch)
            _check_labels(found, where, batch)
            for digest in _digests(found, batch):
                if seen.setdefault(digest, which) != which:
                    raise _shared(found, seen[digest], which)
                own.append(digest)
            count += batch.n
            if count > MOST_SAMPLES:
                raise UserError(f"{found.name}: {which} has no end", hint="a pass is to end")
        if not own:
            raise UserError(f"{found.name}: {which} is empty", hint="give each of the three sets its samples")
        _refuse_elsewhere(found, which, own, elsewhere)
        for digest in sorted(own):  # loaders shuffle
            total.update(digest)
        digests[which] = total.hexdigest()
    return digests


def _shared(found: Given, one: str, other: str) -> UserError:
    return UserError(
        f"{found.name}: a sample of {other} is in {one} too, so scores on it would say nothing",
        hint="split the samples once, without repetition; augment in `augment`, after the split",
    )


def _refuse_elsewhere(found: Given, which: str, own: Sequence[bytes], elsewhere: Sequence[Elsewhere]) -> None:
    """UserError where samples of a set stand in a file that is another kind of set."""
    for other in elsewhere:
        shared = 0 if other.which == which else sum(digest in other.digests for digest in own)
        if shared:
            raise UserError(
                f"{found.name}: {shared} of the {len(own)} samples of its {which} set are in {other.source} "
                f"too, which is for {_MEANT[other.which]}",
                hint="training, choosing (calibration, validation) and testing need samples of their own; "
                "let the factory and the recipe's data name the same three sets",
            )


def _check_finite(found: Given, where: str, batch: Batch) -> None:
    import torch

    for name, each in zip(found.inputs, batch.inputs, strict=True):
        if each.is_floating_point() and not bool(torch.isfinite(each).all()):
            raise UserError(f"{found.name}: {where} has NaN or infinity in {name}", hint="clean the data")


def _check_labels(found: Given, where: str, batch: Batch) -> None:
    """A classifier's labels are whole numbers below its number of classes, one a sample."""
    import torch

    if found.classes is None:
        return
    labels = batch.targets
    if not isinstance(labels, torch.Tensor) or tuple(labels.shape) != (batch.n,):
        raise UserError(
            f"{found.name}: the labels of {where} are {_kind(labels)} for {batch.n} samples",
            hint="one class a sample, a tensor [N]; for other targets give a loss of your own",
        )
    if labels.dtype != torch.int64:
        raise UserError(f"{found.name}: the labels of {where} are {labels.dtype}", hint="labels.long()")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= found.classes:
        raise UserError(
            f"{found.name}: {where} has the label {low if low < 0 else high}; "
            f"the network has {found.classes} classes, 0 to {found.classes - 1}",
            hint="give the network as many outputs as there are classes, and count labels from 0",
        )


def _digests(found: Given, batch: Batch) -> Iterator[bytes]:
    """What names each sample, as for samples of files: all its inputs, by their names in order."""
    by_name = sorted(zip(found.inputs, batch.inputs, strict=True), key=lambda pair: pair[0])
    arrays = [each.detach().cpu().contiguous().numpy() for _, each in by_name]
    for sample in zip(*arrays, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for each in sample:
            digest.update(each.tobytes())
        yield digest.digest()


def _check_like(name: str, like: Given, module: Module) -> None:
    """The student's outputs have the shapes of the network's that it is to replace."""
    import torch

    with torch.no_grad(), usercode.blamed(name):
        made = module(*like.example)
    shapes = [tuple(each.shape) for each in outputs_of(made, name)]
    with torch.no_grad(), usercode.blamed(like.name):
        wanted = [tuple(each.shape) for each in outputs_of(like.module(*like.example), like.name)]
    if shapes != wanted:
        raise UserError(
            f"{name}: its network returns {shapes} for the example, that of {like.name} {wanted}",
            hint="a student takes the same inputs and gives outputs of the same shapes",
        )


def need_torch() -> None:
    """UserError that says what to install where PyTorch is missing."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise UserError("training steps need PyTorch, which is not installed", hint=EXTRA)
