"""Typical inputs for published networks, drawn and computed here: lines of writing, pictures, speech, words.

On noise a detector of text or voices answers almost 0, which proves little. `sample` makes what a network is
built for: `kind` is a word of FEEDS. The same seed makes the same arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench import model
from edgebench.records import ModelInfo, Tensor

Array = NDArray[Any]
Arrays = dict[str, Array]

# Letters as strokes between points of a grid 2 wide and 4 high.
LETTERS = {
    "A": "04-10 10-24 12-12 03-23",
    "E": "00-04 00-20 02-12 04-24",
    "F": "00-04 00-20 02-12",
    "H": "00-04 20-24 02-22",
    "I": "10-14 00-20 04-24",
    "K": "00-04 20-02 02-24",
    "L": "00-04 04-24",
    "M": "04-00 00-12 12-20 20-24",
    "N": "04-00 00-24 24-20",
    "T": "00-20 10-14",
    "V": "00-14 14-20",
    "X": "00-24 20-04",
    "Y": "00-12 20-12 12-14",
    "Z": "00-20 20-04 04-24",
    "1": "01-10 10-14 04-24",
    "4": "00-02 02-22 20-24",
    "7": "00-20 20-14",
}
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])[:, None, None]
IMAGENET_STD = np.array([0.229, 0.224, 0.225])[:, None, None]
NSFW_MEAN = np.array([104.0, 117.0, 123.0])
RATE_HZ = {288: 8000, 576: 16000}  # samples that detectors of voices look at -> their rate
LAST_WORD = 32_000
END_OF_TEXT = 1


def sample(kind: str, info: ModelInfo, seed: int) -> Arrays:
    """Name -> array for every input of a static model; "" makes what `edgebench` itself would generate."""
    made = model.random_inputs(info, seed)
    if kind:
        random = np.random.default_rng([7, seed])
        for tensor in info.inputs:
            values = FEEDS[kind](tensor, random)
            made[tensor.name] = values.reshape(made[tensor.name].shape).astype(made[tensor.name].dtype)
    return made


# --- pictures -----------------------------------------------------------------------------------


def writing(height: int, width: int, random: np.random.Generator) -> Array:
    """A light picture [height, width] in 0..1 with one line of dark letters from edge to edge."""
    canvas = _ground(height, width, random)
    size = height * random.uniform(0.55, 0.7)
    left, top = height * 0.15, (height - size) / 2
    while left + size * 0.55 < width:
        letter = str(random.choice(list(LETTERS)))
        _draw(canvas, LETTERS[letter], (left, top, size), random.uniform(0.05, 0.25))
        left += size * random.uniform(0.75, 0.9)
    return canvas


def _page(height: int, width: int, random: np.random.Generator) -> Array:
    """A light picture with lines of writing of several heights."""
    canvas = _ground(height, width, random)
    top = random.uniform(4, 10)
    while top < height - 20:
        line = random.uniform(18, 30)
        inset = int(random.uniform(4, width / 4))
        bottom = min(height, int(top + line))
        rows, columns = slice(int(top), bottom), slice(inset, width - 4)
        drawn = writing(bottom - int(top), width - 4 - inset, random)
        canvas[rows, columns] = np.minimum(canvas[rows, columns], drawn)
        top += line * random.uniform(1.3, 1.9)
    return canvas


def _ground(height: int, width: int, random: np.random.Generator) -> Array:
    across, down = random.uniform(-0.08, 0.08, 2)
    slope = across * np.linspace(-1, 1, width)[None, :] + down * np.linspace(-1, 1, height)[:, None]
    ground: Array = np.clip(random.uniform(0.8, 0.95) + slope + random.normal(0, 0.01, (height, width)), 0, 1)
    return ground


def _draw(canvas: Array, strokes: str, place: tuple[float, float, float], ink: float) -> None:
    """Put one letter at (left, top) with that height, its strokes a tenth of it thick."""
    left, top, size = place
    y, x = np.mgrid[: canvas.shape[0], : canvas.shape[1]].astype(float)
    for stroke in strokes.split():
        ends = [
            (left + int(across) * size * 0.27, top + int(down) * size / 4)
            for across, down in stroke.split("-")
        ]
        (x0, y0), (x1, y1) = ends
        long = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max(long, 1e-9), 0, 1)
        away = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
        cover = np.clip(size * 0.06 + 0.5 - away, 0, 1)
        canvas[:] = canvas * (1 - cover) + ink * cover


def landscape(height: int, width: int, random: np.random.Generator) -> Array:
    """[3, height, width] in 0..1: a sky, hills behind one another, a sun, grain."""
    x = np.linspace(0, 1, width)
    y = np.linspace(0, 1, height)[:, None]
    sky, haze = random.uniform(0.35, 0.95, (2, 3, 1, 1))
    made = sky * (1 - y) + haze * y
    sun = np.hypot(x[None, :] - random.uniform(0.1, 0.9), y - random.uniform(0.05, 0.3))
    made = made + np.clip(1 - sun * 9, 0, 1) * (1 - made)
    for depth in range(4):
        wave = sum(
            random.uniform(0.02, 0.08) * np.sin(2 * np.pi * (random.uniform(0.5, 4) * x + random.uniform()))
            for _ in range(3)
        )
        colour = random.uniform(0.05, 0.6, (3, 1, 1))
        below = np.clip((y - (0.35 + 0.15 * depth + wave)) * height, 0, 1)
        made = made * (1 - below) + colour * below
    grain = random.normal(0, 0.03, (1, height, width))
    clipped: Array = np.clip(made + grain, 0, 1)
    return clipped


def _text_line(tensor: Tensor, random: np.random.Generator) -> Array:
    height, width = tensor.shape[2:]
    return np.stack([writing(int(height), int(width), random)] * 3) / 0.5 - 1


def _text_page(tensor: Tensor, random: np.random.Generator) -> Array:
    height, width = tensor.shape[2:]
    page: Array = (np.stack([_page(int(height), int(width), random)] * 3) - IMAGENET_MEAN) / IMAGENET_STD
    return page


def _photo(tensor: Tensor, random: np.random.Generator) -> Array:
    height, width = tensor.shape[2:]
    photo: Array = (landscape(int(height), int(width), random) - IMAGENET_MEAN) / IMAGENET_STD
    return photo


def _photo_bgr_last(tensor: Tensor, random: np.random.Generator) -> Array:
    height, width = tensor.shape[1:3]
    picture = landscape(int(height), int(width), random)[::-1]
    shifted: Array = picture.transpose(1, 2, 0) * 255 - NSFW_MEAN
    return shifted


# --- speech and words ---------------------------------------------------------------------------


def _speech(tensor: Tensor, random: np.random.Generator) -> Array:
    """A voice (harmonics of a low tone through two formants, swelling) with some breath; a young state."""
    window = next((size for size in tensor.shape if size in RATE_HZ), None)
    if tensor.name == "sr":  # who has to be told looks at 288 samples
        return np.array(RATE_HZ[288])
    if window is None:  # what a recurrent layer remembers
        return random.normal(0, 0.1, [int(size) for size in tensor.shape])
    return _voice(int(np.prod([int(size) for size in tensor.shape])), RATE_HZ[int(window)], random)


def _sound(tensor: Tensor, random: np.random.Generator) -> Array:
    """A voice as long as the input is, at 16 kHz."""
    return _voice(int(np.prod([int(size) for size in tensor.shape])), 16_000, random)


def _voice(count: int, rate: int, random: np.random.Generator) -> Array:
    time_s = np.arange(count) / rate
    tone = random.uniform(90, 220) * (1 + 0.02 * np.sin(2 * np.pi * 5 * time_s))
    phase = 2 * np.pi * np.cumsum(tone) / rate
    formants = random.uniform([350, 1000], [800, 2200])
    voice = np.zeros(count)
    for harmonic in range(1, 30):
        pitch = harmonic * float(tone.mean())
        if pitch > rate * 0.45:
            break
        strength = sum(np.exp(-(((pitch - formant) / 220) ** 2)) for formant in formants) + 0.05
        voice += strength * np.sin(harmonic * phase + random.uniform(0, 2 * np.pi))
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * random.uniform(2, 6) * time_s + random.uniform(0, 6))
    loud = random.uniform(0.1, 0.4) * swell * voice / np.abs(voice).max()
    heard: Array = loud + random.normal(0, 0.003, count)
    return heard


def _mel(tensor: Tensor, random: np.random.Generator) -> Array:
    """[1, bands, frames]: what a mel spectrogram of speech looks like, ridges that move, about -1 to 1.5."""
    bands, frames = (int(size) for size in tensor.shape[1:])
    at = np.arange(bands)[:, None]
    made = np.full((bands, frames), -0.6)
    for _ in range(5):
        path = bands * (random.uniform(0.1, 0.8) + 0.06 * np.sin(np.arange(frames) / random.uniform(8, 40)))
        loud = np.clip(np.sin(np.arange(frames) / random.uniform(10, 60) + random.uniform(0, 6)), 0, 1)
        made += random.uniform(0.6, 1.4) * loud * np.exp(-(((at - path) / random.uniform(2, 5)) ** 2))
    return made + random.normal(0, 0.08, made.shape)


def _bytes(tensor: Tensor, random: np.random.Generator) -> Array:
    """The beginning and the end of a text as bytes, 256 between them: it is shorter than the input."""
    count = int(np.prod([int(size) for size in tensor.shape]))
    words = [
        "import",
        "def",
        "return",
        "x",
        "=",
        "(value)",
        ":",
        "\n",
        "    ",
        "for",
        "in",
        "self.",
        "# note",
    ]
    text = " ".join(random.choice(words, size=count)).encode()[: count * 2 // 3]
    made = np.full(count, 256)
    half = len(text) // 2
    made[:half] = np.frombuffer(text[:half], np.uint8)
    made[count - half :] = np.frombuffer(text[len(text) - half :], np.uint8)
    return made


def _words(tensor: Tensor, random: np.random.Generator) -> Array:
    """Token numbers with the end of the text before a little padding, the mask that goes with it."""
    shape = [int(size) for size in tensor.shape]
    if tensor.dtype.startswith("float"):
        return random.normal(0, 0.25, shape)
    length = shape[-1] - shape[-1] // 4
    if "mask" in tensor.name:
        return np.broadcast_to(np.arange(shape[-1]) < length, shape)
    ids = random.integers(3, LAST_WORD, shape)
    ids[..., length - 1] = END_OF_TEXT
    ids[..., length:] = 0
    return ids


FEEDS: dict[str, Callable[[Tensor, np.random.Generator], Array]] = {
    "text line": _text_line,
    "text page": _text_page,
    "photo": _photo,
    "photo, bgr last": _photo_bgr_last,
    "speech": _speech,
    "sound": _sound,
    "mel": _mel,
    "bytes": _bytes,
    "words": _words,
}
