"""The int8 form of what pnnx wrote: ranges from samples or from a QDQ model, then proof, layer by layer.

    ranges    absmax and KL in one pass over the calibration samples, or the scales of a QDQ model
    choose    for each layer the better range by SNR; a layer that loses too much stays float
    settle    as long as an output of the whole network loses too much or is far off somewhere, the worst
              layers go back to float
    Winograd  int8 layers that ncnn may compute by Winograd must give exactly what they give without

What the float network and the settled one compute for the few samples that are looked at closely is kept.

It runs in the conversion worker: ncnn may crash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edgebench import model
from edgebench.convert.base import Request
from edgebench.convert.ncnn import calibrate, param, quantize, transfer
from edgebench.convert.ncnn.base import Memory, Net, Sample, Settings
from edgebench.convert.ncnn.param import Layer, Network
from edgebench.errors import BugError, ModelError, UserError
from edgebench.records import decode

LABEL = "requantised-by-edgebench"
METHODS = ("absmax", "kl")
ALONE = "weights alone"  # the way of layers that need no range
CHECKED = 8  # samples that SNRs and Winograd are looked at with, evenly chosen
MIN_LAYER_DB = 20.0  # a hundredth of a layer's energy is noise
MIN_OUTPUT_DB = 23.0  # parity asks for 20
MAX_OUTPUT_SHARE = 0.07  # parity asks for 0.1
TOLD_SHARE = 0.05  # of the weights, in layers without an int8 form
SEED = 5

Thresholds = Mapping[str, float]


class Files(NamedTuple):
    """The param and the bin file of a network."""

    param: Path
    weights: Path


class Made(NamedTuple):
    """The int8 network's files and what is to be said of it."""

    files: Files
    notes: tuple[str, ...]


class Choice(NamedTuple):
    """Layer -> threshold of the int8 ones, how it was found, its SNR; layer -> why it stays float."""

    thresholds: dict[str, float]
    methods: dict[str, str]
    snr_db: dict[str, float]
    kept: dict[str, str]


class _Bench(NamedTuple):
    """What every step needs: the float network, in ncnn too, samples, outputs, and a folder for files."""

    network: Network
    floats: Memory
    samples: list[Sample]
    outputs: tuple[str, ...]
    work: Path

    def net(self, files: Files, *, winograd: bool = False, winograd43: bool = False) -> Net:
        """The network of these files in ncnn. Without Winograd it is exact, and loads fastest."""
        return Net(*files, Settings(winograd, winograd43))

    def checked(self) -> list[Sample]:
        """A few samples, evenly chosen."""
        return _evenly(self.samples)

    def layers(self, names: Mapping[str, object]) -> list[Layer]:
        """The layers of these names, in the network's order."""
        return [layer for layer in self.network.layers if layer.name in names]

    def save(self, thresholds: Thresholds, name: str) -> Files:
        """The files of the network with these layers in int8."""
        text, weights = param.write(quantize.quantized(self.network, thresholds))
        files = Files(self.work / f"{name}.param", self.work / f"{name}.bin")
        files.param.write_text(text, "utf-8")
        files.weights.write_bytes(weights)
        return files


class Settled(NamedTuple):
    """What was chosen in the end, its files, and the network of these files without Winograd."""

    choice: Choice
    files: Files
    plain: Memory


def make(request: Request, files: Files, work: Path, *, drops_batch: bool) -> Made:
    """The int8 network; UserError for calibration samples that do not fit, ModelError when it cannot be."""
    bench = _bench(request, files, work, drops_batch)
    methods, kept, origin = _ranges(request, bench)
    settled = settle(choose(methods, kept, bench), bench)
    notes = (
        *_notes(origin, settled.choice),
        _without_form(bench.network),
        check_winograd(settled, bench),
    )
    return Made(settled.files, tuple(note for note in notes if note))


def _bench(request: Request, files: Files, work: Path, drops_batch: bool) -> _Bench:
    network = param.read(files.param.read_text("utf-8"), files.weights.read_bytes())
    samples = _samples(request, drops_batch)
    outputs = tuple(f"out{number}" for number in range(len(request.info.outputs)))
    layers = [layer for layer in network.layers if quantize.quantizable(layer)]
    return _Bench(
        network=network,
        floats=Memory(Net(*files), _evenly(samples), _ends(network, layers, outputs)),
        samples=samples,
        outputs=outputs,
        work=work,
    )


def _evenly(samples: list[Sample]) -> list[Sample]:
    count = min(CHECKED, len(samples))
    return [samples[place * len(samples) // count] for place in range(count)]


def _ends(network: Network, layers: list[Layer], outputs: tuple[str, ...]) -> dict[str, str]:
    """The blobs that these layers take and give, and the outputs -> what they are copies of."""
    origin = _origins(network)
    ends = [blob for layer in layers for blob in (*layer.inputs, layer.outputs[0])]
    return {blob: origin.get(blob, blob) for blob in (*ends, *outputs)}


def _samples(request: Request, drops_batch: bool) -> list[Sample]:
    """The user's samples by ncnn's names; generated ones where a QDQ model brings its own ranges."""
    info = request.info
    if request.calibration is None:
        feeds = [model.random_inputs(info, SEED + number) for number in range(2)]
    else:
        feeds = list(model.batches(model.read_inputs(Path(request.calibration), info), info))
    names = [tensor.name for tensor in info.inputs]
    return [
        {f"in{number}": feed[name][0] if drops_batch else feed[name] for number, name in enumerate(names)}
        for feed in feeds
    ]


# --- ranges -------------------------------------------------------------------------------------


def _ranges(request: Request, bench: _Bench) -> tuple[dict[str, Thresholds], dict[str, str], str]:
    """Method -> thresholds, the layers that got none and why, and where the ranges come from."""
    layers = [layer for layer in bench.network.layers if quantize.quantizable(layer)]
    if not layers:
        raise ModelError(
            f"{request.info.name} has no layer that ncnn runs in int8 (convolutions, fully connected ones, "
            "LSTM, GRU, RNN)",
            hint="use fp16 with ncnn, or onnxruntime or openvino for int8",
        )
    scales = bench.work / transfer.SCALES_FILE
    if scales.is_file():
        return _transferred(scales, layers)
    if request.calibration is None:
        raise UserError(
            "int8 for ncnn needs calibration inputs: some typical samples of what the model will see",
            hint="--calibration samples.npz, made by numpy.savez('samples.npz', INPUT=array)",
        )
    thresholds = measured(_asked(request), layers, bench)
    return thresholds, {}, f"calibrated with {len(bench.samples)} samples"


def _asked(request: Request) -> tuple[str, ...]:
    method = request.options.get("ranges", "best")
    if method != "best" and method not in METHODS:
        raise BugError(f"no way {method} to find ranges")
    return METHODS if method == "best" else (method,)


def measured(methods: tuple[str, ...], layers: list[Layer], bench: _Bench) -> dict[str, Thresholds]:
    """Method -> layer -> threshold, on all samples; a layer whose input is always 0 gets 0.

    Layers whose int8 form has no range are there too, by a method of their own.
    """
    ranged = [layer for layer in layers if quantize.has_range(layer)]
    found = _ranged(methods, ranged, bench) if ranged else {}
    without = {layer.name: 1.0 for layer in layers if not quantize.has_range(layer)}
    return found | ({ALONE: without} if without else {})


def _ranged(methods: tuple[str, ...], layers: list[Layer], bench: _Bench) -> dict[str, Thresholds]:
    origin = _origins(bench.network)
    blobs = {layer.name: origin.get(layer.inputs[0], layer.inputs[0]) for layer in layers}
    wanted = list(dict.fromkeys(blobs.values()))
    if "kl" not in methods:
        largest = calibrate.absmax(bench.floats, wanted, bench.samples)
        return {"absmax": {name: largest[blob] for name, blob in blobs.items()}}
    seen = calibrate.ranges(bench.floats, wanted, bench.samples)
    cut = {blob: calibrate.kl_threshold(each.over_largest(), each.largest) for blob, each in seen.items()}
    found = {
        "absmax": {name: seen[blob].largest for name, blob in blobs.items()},
        "kl": {name: cut[blob] for name, blob in blobs.items()},
    }
    return {method: found[method] for method in methods}


def _origins(network: Network) -> dict[str, str]:
    """The copies that Split layers make -> what they copy: measured once."""
    found: dict[str, str] = {}
    for layer in network.layers:
        if layer.kind == "Split":
            source = found.get(layer.inputs[0], layer.inputs[0])
            found |= dict.fromkeys(layer.outputs, source)
    return found


def _transferred(path: Path, layers: list[Layer]) -> tuple[dict[str, Thresholds], dict[str, str], str]:
    scales = decode(transfer.Scales, path.read_bytes(), source="the scales of the QDQ model")
    weights = {layer.name: quantize.weights_of(layer) for layer in layers}
    matched = transfer.match(scales, weights)
    if not matched.thresholds:
        raise ModelError(
            "no layer of the QDQ model could be found again after pnnx",
            hint="start from the fp32 model with --calibration, or use onnxruntime or openvino",
        )
    known = Counter(transfer.digest(values) for values in weights.values())
    kept = {
        name: "another layer has the same weights"
        if known[transfer.digest(values)] > 1
        else "the QDQ model has no scale for it"
        for name, values in weights.items()
        if name not in matched.thresholds
    }
    return (
        {"qdq": matched.thresholds},
        kept,
        f"with the QDQ model's scales of {len(matched.thresholds)} layers",
    )


# --- choosing -----------------------------------------------------------------------------------


def choose(methods: Mapping[str, Thresholds], kept: Mapping[str, str], bench: _Bench) -> Choice:
    """For every layer the method with the higher SNR; layers below the bound stay float."""
    usable = {
        method: {name: value for name, value in each.items() if value > 0} for method, each in methods.items()
    }
    snr = {}
    for method, thresholds in usable.items():
        net = bench.net(bench.save(thresholds, method))
        snr[method] = calibrate.layer_snr(bench.floats, net, bench.layers(thresholds), bench.checked())
    choice = Choice({}, {}, {}, dict(kept))
    for name in dict.fromkeys(name for each in methods.values() for name in each):
        offers = {method: snr[method][name] for method in snr if name in snr[method]}
        if not offers:
            choice.kept[name] = "its input is 0 on every sample"
            continue
        best = max(offers, key=lambda method: offers[method])
        if offers[best] < MIN_LAYER_DB:
            choice.kept[name] = f"int8 leaves it {offers[best]:.1f} dB"
        else:
            choice.thresholds[name] = usable[best][name]
            choice.methods[name] = best
            choice.snr_db[name] = offers[best]
    return choice


def settle(choice: Choice, bench: _Bench) -> Settled:
    """The choice with as many of its worst layers back in float as the whole network's outputs need.

    1, 2, 4 ... are tried. Not the fewest: what just holds on these samples may not on others.
    """
    order = sorted(choice.thresholds, key=lambda name: choice.snr_db[name])
    back = 0
    while back < len(order):
        settled = _with_float(order[:back], choice, bench)
        if settled is not None:
            return settled
        back = max(1, 2 * back)
    raise ModelError(
        "no layer can be int8 without harm to the outputs",
        hint="use fp16 with ncnn, give more typical calibration inputs, or use onnxruntime or openvino",
        detail="\n".join(f"{name}: {why}" for name, why in choice.kept.items()),
    )


def _with_float(back: list[str], choice: Choice, bench: _Bench) -> Settled | None:
    """The choice without these layers; None where an output then still loses too much."""
    left = {name: value for name, value in choice.thresholds.items() if name not in back}
    files = bench.save(left, "int8")
    ends = _ends(bench.network, _by_winograd(left, bench), bench.outputs)
    plain = Memory(bench.net(files), bench.checked(), ends)
    if not _outputs_hold(plain, bench):
        return None
    why = dict.fromkeys(back, "the outputs need it")
    return Settled(choice._replace(thresholds=left, kept=choice.kept | why), files, plain)


def _outputs_hold(net: Memory, bench: _Bench) -> bool:
    compared = (bench.floats, net, bench.outputs, bench.checked())
    return (
        calibrate.output_snr(*compared) >= MIN_OUTPUT_DB
        and calibrate.output_share(*compared) <= MAX_OUTPUT_SHARE
    )


# --- Winograd -----------------------------------------------------------------------------------


def check_winograd(settled: Settled, bench: _Bench) -> str:
    """What to say of Winograd, if anything; ModelError when even F(2,3), which stays on, changes a layer."""
    layers = _by_winograd(settled.choice.thresholds, bench)
    if not layers:
        return ""
    _, files, plain = settled
    wrong = calibrate.unequal(plain, bench.net(files, winograd=True), layers, bench.checked())
    if wrong:
        raise ModelError(
            f"ncnn computes {', '.join(wrong)} differently by Winograd than without: its integers overflow",
            hint="use fp16 with ncnn, or onnxruntime or openvino for int8",
        )
    full = bench.net(files, winograd=True, winograd43=True)
    worse = calibrate.unequal(plain, full, layers, bench.checked())
    danger = f"with it {', '.join(worse)} computes wrong values" if worse else "its sums could overflow"
    tried = f"{len(bench.checked())} of {len(bench.samples)} samples tried"
    return f"use_winograd43_convolution is off here and must be off in production: {danger} ({tried})"


def _by_winograd(thresholds: Thresholds, bench: _Bench) -> list[Layer]:
    return [layer for layer in bench.layers(thresholds) if quantize.winograd(layer)]


# --- telling ------------------------------------------------------------------------------------


def _notes(origin: str, choice: Choice) -> tuple[str, ...]:
    methods = [choice.methods[name] for name in choice.thresholds]
    known = (*METHODS, ALONE)
    used = ", ".join(f"{method} for {methods.count(method)}" for method in known if method in methods)
    total = len(choice.thresholds) + len(choice.kept)
    made = f"{LABEL}: int8 in {len(methods)} of {total} layers, {origin}{f' ({used})' if used else ''}"
    if not choice.kept:
        return (made,)
    return (made, "float stay: " + "; ".join(f"{name} ({why})" for name, why in choice.kept.items()))


def _without_form(network: Network) -> str:
    """Which layers with weights have no int8 form at all, where that is a part worth telling."""
    sizes = {layer: sum(block.size() for block in layer.blocks) for layer in network.layers}
    others = {layer: size for layer, size in sizes.items() if size and not quantize.quantizable(layer)}
    share = sum(others.values()) / max(1, sum(sizes.values()))
    if share < TOLD_SHARE:
        return ""
    kinds = ", ".join(sorted({layer.kind for layer in others}))
    return f"float too: {kinds}, {share:.0%} of the weights; edgebench has no int8 form of them"
