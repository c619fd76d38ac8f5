"""Trains the demo network on scikit-learn's handwritten digits and writes the files beside it.

    pip install torch==2.13.0 scikit-learn==1.9.1 onnx numpy
    python train_digits.py [FOLDER]

Written into FOLDER (default: beside this script):
  digits.onnx             image [batch,1,8,8] float32 in 0..1 -> logits [batch,10]; opset 17, BatchNorm folded
  digits-pruned.onnx      the same network, half of the weights of every layer zero, fine-tuned
  digits-test.npz         image [500,1,8,8] float32, labels [500] int64: never trained on, never calibrated on
  digits-calibration.npz  image [297,1,8,8] float32: for the ranges of INT8 activations; never trained on

The split is one seeded permutation of the 1797 images: 1000 for training, 297 for calibration, 500 for
testing. The weights depend on the seed, on torch's version and on the processor's floating-point order; the
digests in README.md are those of the committed files. Nothing in edgebench imports this script.
"""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import nn

SEED = 0
EPOCHS = 60
PRUNED_SHARE = 0.5
PRUNED_EPOCHS = 15
BATCH = 50
TRAINING, CALIBRATION, TEST = 1000, 297, 500


def main() -> None:
    """Train, export, save the splits."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels, order = load_split()
    training, calibration, test = np.split(order, [TRAINING, TRAINING + CALIBRATION])
    model = network()
    train(model, images, labels, training, epochs=EPOCHS)
    export(model, folder / "digits.onnx", variant="fp32")
    report("trained", model, images, labels, calibration, test)
    masks = prune(model, PRUNED_SHARE)
    train(model, images, labels, training, epochs=PRUNED_EPOCHS, masks=masks)
    export(model, folder / "digits-pruned.onnx", variant=f"pruned-{100 * PRUNED_SHARE:g}")
    report("pruned and fine-tuned", model, images, labels, calibration, test)
    np.savez_compressed(folder / "digits-test.npz", image=images[test], labels=labels[test])
    np.savez_compressed(folder / "digits-calibration.npz", image=images[calibration])


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [1797,1,8,8] float32 in 0..1, labels [1797] int64, and a seeded permutation of their indices."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    order = np.random.default_rng(SEED).permutation(TRAINING + CALIBRATION + TEST)
    return images, digits.target.astype(np.int64), order


def block(channels_in: int, channels_out: int, size: int, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, BatchNorm, ReLU; the picture keeps its size."""
    convolution = nn.Conv2d(channels_in, channels_out, size, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(channels_out), relu=nn.ReLU()))


def network() -> nn.Sequential:
    """212,970 weights, 11.3 million MACs: dense, depthwise and pointwise convolutions, two linear layers."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        dense1=block(1, 32, 3),
        dense2=block(32, 64, 3),
        depthwise=block(64, 64, 3, groups=64),
        pointwise=block(64, 128, 1),
        dense3=block(128, 128, 3),
        pool=nn.MaxPool2d(2),
        squeeze=block(128, 32, 1),
        flatten=nn.Flatten(),
        linear1=nn.Linear(32 * 4 * 4, 64),
        relu=nn.ReLU(),
        linear2=nn.Linear(64, 10),
    )
    return nn.Sequential(layers)


Masks = dict[str, torch.Tensor]


def train(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    training: np.ndarray,
    *,
    epochs: int,
    masks: Masks | None = None,
) -> None:
    """Train in place: AdamW, cosine rate, pictures shifted by up to a pixel; masked weights stay zero."""
    random = np.random.default_rng(SEED + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        model.train()
        for batch in np.split(random.permutation(training), TRAINING // BATCH):
            optimizer.zero_grad()
            answers = model(torch.from_numpy(shift(images[batch], random)))
            nn.functional.cross_entropy(answers, torch.from_numpy(labels[batch])).backward()
            optimizer.step()
            apply_masks(model, masks or {})
        schedule.step()
    model.eval()


def prune(model: nn.Module, share: float) -> Masks:
    """Which weights stay, after zeroing the given share of each layer's weights, the smallest first."""
    masks: Masks = {}
    for name, weight in model.named_parameters():
        if weight.dim() >= 2:
            count = round(share * weight.numel())
            order = weight.detach().abs().flatten().argsort(stable=True)
            mask = torch.ones(weight.numel())
            mask[order[:count]] = 0
            masks[name] = mask.reshape(weight.shape)
    apply_masks(model, masks)
    return masks


def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set the pruned weights to zero."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in masks:
                weight.mul_(masks[name])


def report(
    what: str,
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    calibration: np.ndarray,
    test: np.ndarray,
) -> None:
    """One line with the accuracy on both splits that were not trained on."""
    seen = accuracy(model, images[calibration], labels[calibration])
    unseen = accuracy(model, images[test], labels[test])
    sys.stdout.write(f"{what}: calibration split {100 * seen:.1f} %, test split {100 * unseen:.1f} %\n")


def shift(pictures: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each picture moved by -1, 0 or 1 pixel in both directions; what comes in is background."""
    padded = np.pad(pictures, ((0, 0), (0, 0), (1, 1), (1, 1)))
    moves = random.integers(0, 3, size=(len(pictures), 2))
    return np.stack([padded[i, :, y : y + 8, x : x + 8] for i, (y, x) in enumerate(moves)])


def accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        answers = model(torch.from_numpy(images)).argmax(dim=1).numpy()
    return float((answers == labels).mean())


def export(model: nn.Module, path: Path, *, variant: str) -> None:
    """Write the ONNX file, without the exporter's notes on source files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, 8, 8),),
            str(path),
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            dynamo=False,
        )
    exported = onnx.load(path)
    exported.graph.name = "digits"
    exported.doc_string = "handwritten digits 8x8, trained by train_digits.py on scikit-learn's load_digits"
    exported.metadata_props.add(key="edgebench.model", value="digits")
    exported.metadata_props.add(key="edgebench.variant", value=variant)
    onnx.checker.check_model(exported, full_check=True)
    path.write_bytes(exported.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
