"""Launches of boards that do not exist, with known truth: two as published ones are noisy, and a worse one.

A launch has its own level (log-normal), is sometimes a slow one, is in a slow clock state for a part of its
inferences, and these are correlated (AR(1)) with rare spikes. Launches may drift during a lease, or resemble
the one before (AR(1) as well). In a duet both models have one launch's level, clock and spikes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

Floats = npt.NDArray[np.float64]
ITERATIONS = 200
CHUNK = 250  # trials made at a time


class Board(NamedTuple):
    """How a kind of board is noisy; shares, not percent."""

    name: str
    launch_sd: float
    slow_share: float
    slow_by: float
    clock_by: float
    phi: float
    iteration_sd: float
    spike_share: float
    spike_by: float
    duet_sd: float  # between the launches of a duet: 0.42 % to 1.3 % were recorded on a shared machine
    drift: float = 0.0
    launch_phi: float = 0.0


BOARDS = (
    Board("quiet", 0.007, 0.05, 0.03, 0.0, 0.5, 0.010, 0.01, 0.10, 0.004),
    Board("typical", 0.015, 0.15, 0.05, 0.08, 0.7, 0.015, 0.01, 0.30, 0.004),
    Board("noisy", 0.050, 0.25, 0.20, 0.15, 0.8, 0.030, 0.02, 0.60, 0.013),
)
TYPICAL = BOARDS[1]
HARD = (
    TYPICAL._replace(name="drifting, 0.4 % a launch", drift=0.004),
    TYPICAL._replace(name="bimodal, half the launches 10 % slower", slow_share=0.5, slow_by=0.10),
    TYPICAL._replace(name="autocorrelated, each launch resembles the last (0.7)", launch_phi=0.7),
)


class Compared(NamedTuple):
    """Many repetitions of one comparison without any change, trials x launches.

    `before` and `after`: the logarithm of every launch's p50 of baseline and candidate; launch i of one side
    is the neighbour of launch i of the other (ABBA in one lease). `together`: what every launch of a duet
    differs by.
    """

    before: Floats
    after: Floats
    together: Floats

    def first(self, launches: int) -> Compared:
        """The same with so many launches."""
        return Compared(*(each[:, :launches] for each in self))


class Pooled(NamedTuple):
    """Logarithms of single inferences, trials x launches x inferences, without any change."""

    before: Floats
    after: Floats

    def first(self, launches: int) -> Pooled:
        """The same with so many launches."""
        return Pooled(*(each[:, :launches] for each in self))


def compared(board: Board, trials: int, launches: int, seed: int, session_sd: float = 0.0) -> Compared:
    """So many comparisons; with `session_sd` the two sides are from different days."""
    chance = np.random.default_rng(_seeds(board, launches, seed))
    parts = []
    for begin in range(0, trials, CHUNK):
        count = min(CHUNK, trials - begin)
        sides = _inferences(board, _levels(board, count, launches, session_sd, chance), chance)
        alone = _inferences(board, _levels(board, count, launches, 0.0, chance)[:, 0], chance)
        p50 = _lower_median(sides)
        parts.append(Compared(p50[:, 0], p50[:, 1], _neighbours(board, alone, chance)))
    return Compared(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def pooled(board: Board, trials: int, launches: int, seed: int) -> Pooled:
    """So many comparisons, with every inference."""
    chance = np.random.default_rng(_seeds(board, launches, seed))
    made = _inferences(board, _levels(board, trials, launches, 0.0, chance), chance)
    return Pooled(made[:, 0], made[:, 1])


def _seeds(board: Board, launches: int, seed: int) -> tuple[int, ...]:
    return (seed, launches, *board.name.encode())


def _levels(
    board: Board, count: int, launches: int, session_sd: float, chance: np.random.Generator
) -> Floats:
    """The level of every launch as a logarithm, trials x sides x launches."""
    positions = _abba(launches)
    own = _resembling(chance.normal(0, board.launch_sd, (count, 2 * launches)), board.launch_phi)
    own += np.log1p(board.slow_by) * (chance.random((count, 2 * launches)) < board.slow_share)
    own += board.drift * chance.choice((-1.0, 1.0), (count, 1)) * np.arange(2 * launches)
    sides = own[:, positions.astype(int)]
    return np.asarray(sides + chance.normal(0, session_sd, (count, 2, 1)) if session_sd else sides)


def _resembling(shocks: Floats, phi: float) -> Floats:
    """Each value as like the one before as `phi` says, with the same spread (AR(1))."""
    if not phi:
        return shocks
    shocks[:, 1:] *= np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], shocks, axis=-1))


def _neighbours(board: Board, logs: Floats, chance: np.random.Generator) -> Floats:
    """The medians of what neighbouring inferences of a process differ by, and the launch's own noise."""
    between = np.median(logs[..., 1:] - logs[..., :-1], axis=-1)
    return np.asarray(between + chance.normal(0, board.duet_sd, between.shape))


def _abba(launches: int) -> npt.NDArray[np.float64]:
    """The times at which the launches of each side run: A B B A A B B A ..., 2 x launches."""
    pair = np.arange(launches)
    first = 2.0 * pair
    second = first + 1
    even = pair % 2 == 0
    return np.stack([np.where(even, first, second), np.where(even, second, first)])


def _inferences(board: Board, level: Floats, chance: np.random.Generator) -> Floats:
    shape = (*level.shape, ITERATIONS)
    shocks = chance.normal(0, board.iteration_sd * np.sqrt(1 - board.phi**2), shape)
    logs = lfilter([1.0], [1.0, -board.phi], shocks, axis=-1)
    logs += level[..., None]
    if board.clock_by:
        logs += np.log1p(board.clock_by) * _slow_clock(shape, chance)
    spikes = chance.random(shape) < board.spike_share
    logs += spikes * chance.exponential(board.spike_by, shape)
    return np.asarray(logs)


def _slow_clock(shape: tuple[int, ...], chance: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Whether the clock is in its slow state: a quarter of the time, changing every 20 inferences or so."""
    smooth = lfilter([1.0], [1.0, -0.95], chance.normal(0, np.sqrt(1 - 0.95**2), shape), axis=-1)
    return np.asarray(smooth > 0.674)  # the upper quartile of a normal distribution


def _lower_median(logs: Floats) -> Floats:
    return np.partition(logs, (logs.shape[-1] - 1) // 2, axis=-1)[..., (logs.shape[-1] - 1) // 2]
