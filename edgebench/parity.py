"""Reference outputs x candidate outputs -> ParityReport. Pure: numpy and nothing else.

Each output is judged by three numbers together, relative to the largest absolute reference value (its range):

    max_abs <= max_abs_share * range    finds one wrong value among millions
    snr_db  >= min_snr_db               10 log10(sum r^2 / sum (r - c)^2): finds a small error everywhere
    cosine  >= min_cosine               never enough: a softmax of all 1.0 instead of 0.001 has cosine 1.0

All sums are float64 and run over every batch; values are divided by the range first: nothing overflows.
Reports travel as JSON, which has no infinity: SNR is kept within ±200 dB (identical outputs: 200) and the
distances of an output that cannot be compared are the largest float.

What proves little is said so, as a warning that begins with "weak": an output that is constant, near zero,
empty, or partly NaN or infinite.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import BugError, ModelError, UserError, did_you_mean
from edgebench.records import OutputParity, ParityBound, ParityReport, replace

Array = NDArray[Any]
Floats = NDArray[np.float64]
Outputs = Mapping[str, Array]
Batches = Outputs | Sequence[Outputs]

# Evidence (shares are max abs / range; x86; ResNet-18, an MNIST CNN, YOLOv8n, NSFW, six OCR networks):
#   fp32           2e-6 and 100 to 137 dB typical; worst 1.9e-4 and 81 dB (PP-OCRv6 recognition, softmax over
#                  18,710 classes, through ncnn). A tanh GELU in the place of an exact one costs 76 dB over
#                  [-4, 4]: the SNR bound stands between the two.
#   fp16           2e-4 to 1.3e-2, 46 to 71 dB typical; worst 3.5e-2 and 35 dB (PP-OCRv6 detection, OpenVINO
#                  with fp16 weights). Boards that compute in fp16 do worse than those that only store it.
#   int8           same QDQ file in two runtimes 1.6e-2; int8 against fp32 1.8e-2 with cosine 0.9998 (34 dB),
#                  YOLOv8n cosine 0.999 (27 dB).
#   int8-dynamic   same file in two runtimes 2.5e-3; against fp32 8e-3 with cosine 0.99998 (43 dB).
BOUNDS: dict[str, ParityBound] = {
    "fp32": ParityBound(precision="fp32", max_abs_share=5e-4, min_snr_db=78.0, min_cosine=0.99999),
    "fp16": ParityBound(precision="fp16", max_abs_share=6e-2, min_snr_db=30.0, min_cosine=0.999),
    "int8": ParityBound(precision="int8", max_abs_share=0.1, min_snr_db=20.0, min_cosine=0.99),
    "int8-dynamic": ParityBound(
        precision="int8-dynamic", max_abs_share=0.1, min_snr_db=25.0, min_cosine=0.995
    ),
}

# What a compressed model must keep of the one it was made from. Below 6 dB the error is half the signal: QDQ
# that went wrong, no cost of eight bits (good int8 lies above 25 dB; without real calibration 17 was seen).
RUIN = ParityBound(precision="int8", max_abs_share=2.0, min_snr_db=6.0, min_cosine=0.85)
NOTABLE_LOSS_DB = 20.0

# A bound over a quantized model's own noise floor. The floor is its SNR when every value lands on one of its
# two neighbouring steps at random (edgebench.model.dither), the worst of some runs. Right conversions of 12
# networks in 4 forms lay 0 to 20 dB above it where a runtime computes with integers of its own, at 130 dB and
# more where it does not; OpenVINO's wrong ones (signed activations) 12 to 26 dB below.
NOISE_MAX_ABS = 3.0  # times the largest error of those runs
MAX_SNR_DEMANDED_DB = 78.0  # values that no rounding reaches: as float32
MIN_SNR_DEMANDED_DB = RUIN.min_snr_db  # below, right and wrong cannot be told apart

SNR_CAP_DB = 200.0
WORST = sys.float_info.max
REL_FLOOR_SHARE = 1e-3  # max_rel looks at reference values above this share of the range; below, it is noise
CONSTANT_SPREAD = 1e-6  # an output whose values differ by less than this share of its range is constant
CONSTANT_SHARE = (
    0.1  # a constant output must keep this part of the bound's max_abs_share: nearly exact equality
)
NEAR_ZERO_RANGE = 1e-4  # float32 noise of values around 1 is 1e-7: such an output keeps three digits at best
NEAR_ZERO_UNIT = 1e-3  # so its distance is judged as if the range were this
NEAR_ZERO_SNR_DB = 20.0
NEAR_ZERO_COSINE = 0.99
ZERO_RANGE = 1.2e-7  # a float32 step at 1: a reference that stays below it is zero for all one can tell
ZERO_ABS = 1e-6  # and this is then all that the candidate may show
CHUNK = 1 << 20  # values compared at a time: bounds the float64 copies


def bound_for(precision: str) -> ParityBound:
    """The bound of one precision; UserError for an unknown one."""
    if precision not in BOUNDS:
        raise UserError(f'no parity bound for precision "{precision}"', hint=did_you_mean(precision, BOUNDS))
    return BOUNDS[precision]


def compression_bound(precision: str) -> ParityBound:
    """The bound of a variant (a precision of `ModelInfo`) against the model that it was compressed from."""
    return BOUNDS[precision] if precision in ("fp32", "fp16") else RUIN


def bounds_over_noise(
    precision: str, reference: Batches, rounded: Sequence[Batches], margin_db: float
) -> dict[str, ParityBound]:
    """The bound of each float output over the model's noise floor.

    `rounded` are some runs of the reference that round at random; `margin_db` is what an output may lie below
    the worst of them. Outputs that cannot be compared (half NaN, another shape) get none.
    """
    loose = replace(RUIN, precision=precision)
    runs = [compare(reference, run, loose) for run in rounded]
    floats = {name for name, array in _as_batches(reference)[0].items() if array.dtype.kind == "f"}
    return {
        outputs[0].name: _over_noise(precision, outputs, margin_db)
        for outputs in zip(*runs, strict=True)
        if outputs[0].name in floats and all(output.max_abs < WORST for output in outputs)
    }


def _over_noise(precision: str, runs: Sequence[OutputParity], margin_db: float) -> ParityBound:
    """The bound that the worst of the runs gives."""
    noise_db = min(run.snr_db for run in runs)
    share = max(run.max_abs / run.reference_range if run.reference_range else 0.0 for run in runs)
    tightest = BOUNDS["fp32"]
    snr_db = min(max(noise_db - margin_db, MIN_SNR_DEMANDED_DB), MAX_SNR_DEMANDED_DB)
    return ParityBound(
        precision=precision,
        max_abs_share=min(max(NOISE_MAX_ABS * share, tightest.max_abs_share), RUIN.max_abs_share),
        min_snr_db=snr_db,
        min_cosine=max(RUIN.min_cosine, 1.0 - 10.0 ** (-snr_db / 10.0)),
        noise_db=noise_db,
    )


def judge(
    reference: Batches,
    candidate: Batches,
    bound: ParityBound,
    *,
    where: str,
    reference_name: str,
    inputs: str = "generated",
    own_bounds: Mapping[str, ParityBound] | None = None,
) -> ParityReport:
    """The report of all outputs; it passes when every output passes. Errors: as `compare`.

    `own_bounds`: what `bounds_over_noise` says of outputs, in place of `bound`.
    """
    judged = _judge_outputs(reference, candidate, bound, own_bounds or {})
    return ParityReport(
        where=where,
        reference=reference_name,
        bound=bound,
        outputs=tuple(item.parity for item in judged),
        passed=all(item.parity.passed for item in judged),
        inputs=inputs,
        warnings=tuple(item.warning for item in judged if item.warning),
    )


def compare(reference: Batches, candidate: Batches, bound: ParityBound) -> tuple[OutputParity, ...]:
    """Each reference output compared, in the reference's order.

    `reference` and `candidate` are one mapping of output name to array, or a sequence of them, one a batch;
    arrays of one name may differ in shape from batch to batch. Integer and boolean references are compared
    exactly (int64 as int32 is fine). A candidate that is missing, of another shape, NaN or infinite does not
    pass, with the reason; but where the reference has a NaN or an infinity, the candidate must have the same.
    ModelError: half of the reference or more is NaN or infinite, or it holds no numbers.
    """
    return tuple(item.parity for item in _judge_outputs(reference, candidate, bound, {}))


def align(candidate: Array, shape: tuple[int, ...]) -> Array | None:
    """The candidate in the given shape, where only axes of size 1 were added or removed; else None."""
    if candidate.shape == shape:
        return candidate
    if [size for size in candidate.shape if size != 1] != [size for size in shape if size != 1]:
        return None
    return candidate.reshape(shape)


class _Judged(NamedTuple):
    parity: OutputParity
    warning: str


class _Reference(NamedTuple):
    """What the reference of one output says by itself, without any candidate.

    `range` and `spread`, (max - min) / 2, are those of its finite values; `broken` counts NaN and infinities.
    """

    range: float
    spread: float
    size: int
    exact: bool
    broken: int


class _Distance(NamedTuple):
    """How far a candidate is; `differing` counts unequal values (integers and booleans only)."""

    max_abs: float
    max_rel: float
    cosine: float
    snr_db: float
    differing: int


def _judge_outputs(
    reference: Batches, candidate: Batches, bound: ParityBound, own_bounds: Mapping[str, ParityBound]
) -> list[_Judged]:
    wanted, given = _as_batches(reference), _as_batches(candidate)
    names = list(wanted[0]) if wanted else []
    if not names:
        raise BugError("parity was asked for without any reference output")
    if any(list(batch) != names for batch in wanted):
        raise BugError("the batches of the reference do not hold the same outputs")
    judged = []
    for name in names:
        own = own_bounds.get(name)
        one = _judge_output(name, [batch[name] for batch in wanted], given, own or bound)
        judged.append(one._replace(parity=replace(one.parity, bound=own)))
    return judged


def _as_batches(outputs: Batches) -> Sequence[Outputs]:
    return [outputs] if isinstance(outputs, Mapping) else outputs


def _judge_output(name: str, wanted: list[Array], given: Sequence[Outputs], bound: ParityBound) -> _Judged:
    about = _describe(name, wanted)
    weakness = _weakness(name, about)
    pairs, reason = _pair(name, wanted, given)
    if reason:
        return _Judged(_incomparable(name, about, reason), weakness)
    distance = _measure(pairs, about)
    weakness = weakness or _drowned(name, bound)
    reason = _judge_exact(distance, about) if about.exact else _judge_float(distance, about, bound)
    parity = OutputParity(
        name=name,
        max_abs=distance.max_abs,
        max_rel=distance.max_rel,
        cosine=distance.cosine,
        snr_db=distance.snr_db,
        reference_range=about.range,
        passed=not reason,
        reason=reason,
    )
    return _Judged(parity, weakness)


# --- the reference alone ------------------------------------------------------------------------


def _describe(name: str, wanted: list[Array]) -> _Reference:
    """Range, spread and size of a reference's finite values; ModelError where half are none."""
    lowest, highest, count, finite = np.inf, -np.inf, 0, 0
    for array in wanted:
        _check_numbers(name, array)
        for values in _chunks(array):
            count += values.size
            known = values[np.isfinite(values)]
            if known.size:
                lowest, highest = min(lowest, float(known.min())), max(highest, float(known.max()))
                finite += known.size
    broken = count - finite
    if count and broken >= finite:
        raise ModelError(
            f'output "{name}" of the reference is NaN or infinite ({broken} of {count} values)',
            hint="the model itself computes this on these inputs: check it, or give real inputs",
        )
    if count == 0:
        lowest = highest = 0.0
    exact = bool(wanted) and all(array.dtype.kind in "biu" for array in wanted)
    largest = max(abs(lowest), abs(highest))
    return _Reference(range=largest, spread=highest / 2 - lowest / 2, size=count, exact=exact, broken=broken)


def _check_numbers(name: str, array: Array) -> None:
    if array.dtype.kind in "biuf" or array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return
    raise ModelError(
        f'output "{name}" has element type {array.dtype}: only real numbers can be compared',
        hint="cut the model before that output",
    )


def _is_constant(about: _Reference) -> bool:
    return about.size > 1 and about.spread <= CONSTANT_SPREAD * about.range / 2


def _is_zero(about: _Reference) -> bool:
    return about.range <= ZERO_RANGE


def _is_near_zero(about: _Reference) -> bool:
    return about.range < NEAR_ZERO_RANGE


def _weakness(name: str, about: _Reference) -> str:
    if about.size == 0:
        what = "empty"
    elif _is_zero(about):
        what = "zero"
    elif _is_constant(about):
        what = f"constant (range {about.range:.3g})"
    elif _is_near_zero(about):
        what = f"near zero (range {about.range:.3g})"
    elif about.broken:
        what = f"NaN or infinite in {about.broken} of {about.size} values"
    else:
        return ""
    return f'weak: output "{name}" is {what} on these inputs; it proves little'


def _drowned(name: str, bound: ParityBound) -> str:
    """A warning where the model's own rounding leaves little to compare."""
    if bound.noise_db is None or bound.noise_db >= NOTABLE_LOSS_DB:
        return ""
    return (
        f'weak: rounding alone moves output "{name}" by {bound.noise_db:.0f} dB on these inputs; '
        "it proves little: give typical inputs"
    )


# --- the candidate beside it --------------------------------------------------------------------


def _pair(name: str, wanted: list[Array], given: Sequence[Outputs]) -> tuple[list[tuple[Array, Array]], str]:
    """Arrays side by side in equal shapes, or the reason why that cannot be."""
    if len(given) != len(wanted):
        return [], f"{len(given)} of {len(wanted)} batches"
    pairs: list[tuple[Array, Array]] = []
    for expected, batch in zip(wanted, given, strict=True):
        if name not in batch:
            return [], "missing; there are: " + ", ".join(batch)
        got = np.asarray(batch[name])
        if got.dtype.kind not in "biufV" or got.dtype.names is not None:
            return [], f"element type {got.dtype}, where {expected.dtype} was expected"
        fitted = align(got, expected.shape)
        if fitted is None:
            return [], f"shape {_shape(got)}, where {_shape(expected)} was expected"
        pairs.append((expected, fitted))
    broken = sum(map(_differently_broken, pairs))
    if broken:
        return [], f"{broken} of {sum(values.size for _, values in pairs)} values are NaN or infinite"
    return pairs, ""


def _differently_broken(pair: tuple[Array, Array]) -> int:
    """How many values are NaN or infinite where the other side has another value."""
    count = 0
    for r, c in zip(_chunks(pair[0]), _chunks(pair[1]), strict=True):
        either = ~np.isfinite(r) | ~np.isfinite(c)
        count += int(np.count_nonzero(either & ~((r == c) | (np.isnan(r) & np.isnan(c)))))
    return count


def _shape(array: Array) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _measure(pairs: list[tuple[Array, Array]], about: _Reference) -> _Distance:
    """Distances over all batches, in units of the range (so squares neither overflow nor vanish)."""
    unit = about.range or max((_largest(got) for _, got in pairs), default=0.0) or 1.0
    max_abs = max_rel = noise = signal = power = product = 0.0
    differing = 0
    for expected, got in pairs:
        differing += _differing(expected, got) if about.exact else 0
        for r, c in zip(_finite_chunks(expected), _finite_chunks(got), strict=True):
            if not r.size:
                continue
            with np.errstate(
                over="ignore", invalid="ignore"
            ):  # a candidate may be 1e308 beside a range of 1e-308
                r_unit, c_unit = r / unit, c / unit
                error = np.abs(r_unit - c_unit)
                max_abs = max(max_abs, float(error.max()))
                large = np.abs(r_unit) > REL_FLOOR_SHARE
                if large.any():
                    max_rel = max(max_rel, float((error[large] / np.abs(r_unit[large])).max()))
                noise += float(np.square(error).sum())
                signal += float(np.square(r_unit).sum())
                power += float(np.square(c_unit).sum())
                product += float((r_unit * c_unit).sum())
    return _Distance(
        max_abs=_bounded(max_abs * unit),
        max_rel=_bounded(max_rel),
        cosine=_cosine(signal, power, product, noise),
        snr_db=_snr_db(signal, noise),
        differing=differing,
    )


def _largest(array: Array) -> float:
    return max((float(np.abs(values).max()) for values in _finite_chunks(array) if values.size), default=0.0)


def _differing(expected: Array, got: Array) -> int:
    if got.dtype.kind == "V":
        got = got.astype(np.float64)
    return int(np.count_nonzero(np.not_equal(expected, got)))


def _cosine(signal: float, power: float, product: float, noise: float) -> float:
    if noise == 0.0:
        return 1.0
    length = float(np.sqrt(signal) * np.sqrt(power))
    if length == 0.0 or not np.isfinite(length):
        return 0.0
    return float(np.clip(product / length, -1.0, 1.0))


def _snr_db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return SNR_CAP_DB
    if signal == 0.0 or not np.isfinite(noise):
        return -SNR_CAP_DB
    decibels = 10.0 * (float(np.log10(signal)) - float(np.log10(noise)))
    return float(np.clip(decibels, -SNR_CAP_DB, SNR_CAP_DB))


def _bounded(value: float) -> float:
    return min(float(value), WORST)


def _chunks(array: Array) -> Iterator[Floats]:
    """The array's values in order, float64, at most `CHUNK` at a time; an empty array gives none."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        yield flat[start : start + CHUNK].astype(np.float64)


def _finite_chunks(array: Array) -> Iterator[Floats]:
    """As `_chunks`, without NaN and infinities; both sides have these in the same places."""
    for values in _chunks(array):
        known = np.isfinite(values)
        yield values if known.all() else values[known]


# --- judging ------------------------------------------------------------------------------------


def _judge_exact(distance: _Distance, about: _Reference) -> str:
    if distance.differing == 0:
        return ""
    return f"{distance.differing} of {about.size} values differ; integers and booleans must be equal"


def _judge_float(distance: _Distance, about: _Reference, bound: ParityBound) -> str:
    """The reason why the output does not pass, or "". Constant and near-zero references have own rules."""
    if about.size == 0:
        return ""
    if _is_zero(about):
        return _too_far(distance, ZERO_ABS)
    if _is_constant(about):
        return _too_far(distance, CONSTANT_SHARE * bound.max_abs_share * about.range)
    if _is_near_zero(about):
        return _too_far(distance, bound.max_abs_share * NEAR_ZERO_UNIT) or _too_noisy(
            distance,
            min(bound.min_snr_db, NEAR_ZERO_SNR_DB),
            min(bound.min_cosine, NEAR_ZERO_COSINE),
        )
    far = _too_far(distance, bound.max_abs_share * about.range)
    return far or _too_noisy(distance, bound.min_snr_db, bound.min_cosine)


def _too_far(distance: _Distance, most: float) -> str:
    if distance.max_abs <= most:
        return ""
    return f"max abs error {distance.max_abs:.3g} is above {most:.3g}"


def _too_noisy(distance: _Distance, min_snr_db: float, min_cosine: float) -> str:
    if distance.snr_db < min_snr_db:
        return f"SNR {distance.snr_db:.1f} dB is below {min_snr_db:g} dB"
    if distance.cosine < min_cosine:
        return f"cosine {distance.cosine:.6f} is below {min_cosine:g}"
    return ""


def _incomparable(name: str, about: _Reference, reason: str) -> OutputParity:
    return OutputParity(
        name=name,
        max_abs=WORST,
        max_rel=WORST,
        cosine=0.0,
        snr_db=-SNR_CAP_DB,
        reference_range=about.range,
        passed=False,
        reason=reason,
    )
