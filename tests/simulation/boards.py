"""Launches of boards that do not exist, with known truth: two as published ones are noisy, and a worse one.

A launch has its own level (log-normal), is sometimes a slow one, is in a slow clock state for a part of its
inferences, and these are correlated (AR(1)) with rare spikes. Launches may drift during a lease.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

Floats = npt.NDArray[np.float64]
ITERATIONS = 200


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
    drift: float


BOARDS = (
    Board("quiet", 0.007, 0.05, 0.03, 0.0, 0.5, 0.010, 0.01, 0.10, 0.0),
    Board("typical", 0.015, 0.15, 0.05, 0.08, 0.7, 0.015, 0.01, 0.30, 0.0),
    Board("noisy", 0.050, 0.25, 0.20, 0.15, 0.8, 0.030, 0.02, 0.60, 0.0),
)
DRIFTING = BOARDS[1]._replace(name="typical, drifting", drift=0.004)


class Trials(NamedTuple):
    """Many repetitions of one comparison without any change: logarithms of single inferences.

    Both arrays are trials x launches x inferences; launch i of one side is the neighbour of launch i of the
    other (ABBA in one lease).
    """

    baseline: Floats
    candidate: Floats

    def p50(self) -> tuple[Floats, Floats]:
        """The logarithm of every launch's p50, trials x launches."""
        return _lower_median(self.baseline), _lower_median(self.candidate)


def trials(
    board: Board,
    count: int,
    launches: int,
    seed: int,
    *,
    iterations: int = ITERATIONS,
    session_sd: float = 0.0,
) -> Trials:
    """`count` comparisons of `launches` a side; with `session_sd` the sides are from different days."""
    chance = np.random.default_rng((seed, launches, round(board.launch_sd * 1e4)))
    positions = _abba(launches)
    drift = board.drift * chance.choice((-1.0, 1.0), (count, 1)) * positions.ravel()[None, :]
    level = chance.normal(0, board.launch_sd, (count, 2 * launches)) + drift
    level += np.log1p(board.slow_by) * (chance.random((count, 2 * launches)) < board.slow_share)
    sides = level.reshape(count, 2, launches)
    sides = sides + chance.normal(0, session_sd, (count, 2, 1)) if session_sd else sides
    made = _inferences(board, sides, iterations, chance)
    return Trials(made[:, 0], made[:, 1])


def _abba(launches: int) -> npt.NDArray[np.float64]:
    """The times at which the launches of each side run: A B B A A B B A ..., 2 x launches."""
    pair = np.arange(launches)
    first = 2.0 * pair
    second = first + 1
    even = pair % 2 == 0
    return np.stack([np.where(even, first, second), np.where(even, second, first)])


def _inferences(board: Board, level: Floats, iterations: int, chance: np.random.Generator) -> Floats:
    shape = (*level.shape, iterations)
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
