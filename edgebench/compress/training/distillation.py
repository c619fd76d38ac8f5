"""distill: another, smaller network learns from the answers of the one so far, and from its layers."""

from __future__ import annotations

import copy
from typing import Any

from edgebench.compress.training.base import Distill, Module, Network, Tensor, Tensors, Work
from edgebench.compress.training.data import Batch
from edgebench.compress.training.fitting import (
    Fitted,
    Objective,
    answers_of,
    fit,
    hard_loss,
    no_soft_loss,
    soft_loss,
)
from edgebench.compress.training.looking import named
from edgebench.compress.training.structure import rebuilt
from edgebench.errors import UserError

Seen = dict[str, Tensor]


def run(network: Network, work: Work, options: Distill) -> tuple[Network, Fitted]:
    """The trained student."""
    change = {"change": "student", "student": options.student}
    student = rebuilt(work.given, [change], work.settings.seed)
    objective = _objective(student, _teacher(network, work, options), work, options)
    return fit(Network(student, (change,)), work, options, objective)


def _teacher(network: Network, work: Work, options: Distill) -> Module | None:
    if options.teacher == "none":
        return None
    made = work.original() if options.teacher == "original" else copy.deepcopy(network.module)
    return made.to(work.device).eval()


def _objective(student: Module, teacher: Module | None, work: Work, options: Distill) -> Objective:
    """Alpha * hard + (1 - alpha) * soft + feature_weight * features, as far as each of them is asked for."""
    hard = hard_loss(work.given)
    if teacher is None:
        return Objective(hard)
    soft = soft_loss(work.given, options.temperature)
    if soft is None and not options.features:
        raise no_soft_loss(work.given)
    watched = _Watched(student, teacher, work, options)

    def loss(batch: Batch, outputs: Tensors) -> Tensor:
        answers = answers_of(work.given, teacher, batch)
        total = hard(batch, outputs)
        if soft is not None:
            total = options.alpha * total + (1 - options.alpha) * soft(batch, outputs, answers)
        return total + options.feature_weight * watched.distance() if options.features else total

    return Objective(loss, watched.adapters, watched.close)


class _Watched:
    """The paired layers of both networks: what they last computed, and how far apart that is.

    Where a pair differs in channels, a linear map of the student's is trained beside it.
    """

    def __init__(self, student: Module, teacher: Module, work: Work, options: Distill) -> None:
        self._own: Seen = {}
        self._theirs: Seen = {}
        self._pairs = tuple(options.features.items())
        self._hooks = [
            *(_watch(named(student, own, work), own, self._own) for own in options.features),
            *(
                _watch(named(teacher, other, work), other, self._theirs)
                for other in options.features.values()
            ),
        ]
        self.adapters = self._made(student, teacher, work)

    def close(self) -> None:
        """Let both networks alone again."""
        for hook in self._hooks:
            hook.remove()

    def distance(self) -> Tensor:
        """The mean squared distance over all pairs."""
        from torch.nn import functional

        each = []
        for place, (own, other) in enumerate(self._pairs):
            mine, wanted = _alike(self._own[own], self._theirs[other])
            each.append(functional.mse_loss(self.adapters[place](mine), wanted))
        return sum(each[1:], each[0]) / len(each)

    def _made(self, student: Module, teacher: Module, work: Work) -> Module:
        """One map a pair, made from what both compute for the example."""
        import torch

        with torch.no_grad():
            student.eval()(*work.given.example)
            teacher.eval()(*(each.to(work.device) for each in work.given.example))
        made = torch.nn.ModuleList()
        for own, other in self._pairs:
            mine, wanted = _alike(self._own[own], self._theirs[other].cpu())
            if mine.shape[:-1] != wanted.shape[:-1]:
                raise UserError(
                    f"{work.given.name}: distill cannot compare {own} {list(self._own[own].shape)} with "
                    f"{other} {list(self._theirs[other].shape)}",
                    hint="pair layers with the same number of axes, and of tokens",
                )
            same = mine.shape[-1] == wanted.shape[-1]
            made.append(torch.nn.Identity() if same else torch.nn.Linear(mine.shape[-1], wanted.shape[-1]))
        return made


def _watch(layer: Module, name: str, seen: Seen) -> Any:
    def look(_module: Module, _inputs: Any, output: Any) -> None:
        seen[name] = output[0] if isinstance(output, tuple) else output

    return layer.register_forward_hook(look)


def _alike(mine: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Both with channels last, pictures at the smaller of their two sizes."""
    from torch.nn import functional

    if mine.dim() == 4 and wanted.dim() == 4:
        size = [min(a, b) for a, b in zip(mine.shape[2:], wanted.shape[2:], strict=True)]
        mine, wanted = (functional.adaptive_avg_pool2d(each, size).movedim(1, -1) for each in (mine, wanted))
    return mine, wanted
