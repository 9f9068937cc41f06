"""Claim: a core turns stored images into views 10 times as fast as lightly does from JPEG files.

At 224 px, with SimCLR's published augmentations on both sides: ours is preset `paper` with
`augmentation` fast, lightly's is its SimCLRTransform as documented, on JPEG files read with Pillow.
Ours starts where training does, at the shards that `prepare` wrote from those files (short side
256 px): range reads, verification, decoding, two views as bytes. Both run on one core, in turns;
what counts is CPU time, and lightly's files come from the page cache, as our shards do.

The photos are colour, 500 x 375 px; gray slices of the brain MRI set, 256 px, are shown beside.

Needs lightly: pip install "lightly>=1.6,<2"

    python benchmarks/data_path.py [--brain-mri FOLDER/brain-mri-cls]
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from sightline.data import open_dataset
from sightline.data.stream import ImageStream
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.run import run as prepare
from sightline.pretrain import PretrainConfig
from sightline.pretrain.batches import TrainingOrder, ViewDataset

RATIO_LIMIT = 10.0
BATCH = 32


def main() -> int:
    """Print images a second and core, and the ratio; 1 if that for photos is below the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--peer-images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--brain-mri", type=Path, help="the set's folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch, "photos")
        draw_photos(photos, arguments.images)
        ratio = compare("photos, 500 x 375 px", photos, Path(scratch, "a"), arguments)
        if arguments.brain_mri:
            compare("brain MRI, gray 256 px", arguments.brain_mri, Path(scratch, "b"), arguments)
    print(f"limit {RATIO_LIMIT:g}: {'kept' if ratio >= RATIO_LIMIT else 'missed'}")
    return int(ratio < RATIO_LIMIT)


def draw_photos(folder: Path, count: int) -> None:
    """Write JPEG files with edges, gradients and noise, of some 60 kB each."""
    folder.mkdir()
    with ProcessPoolExecutor() as pool:
        list(pool.map(draw_photo, (folder / f"{n:05d}.jpg" for n in range(count)), range(count)))


def draw_photo(path: Path, number: int) -> None:
    """Write one of them."""
    y, x = np.mgrid[:375, :500] / 375
    random = np.random.default_rng(number)
    waves = [np.sin(9 * x * a + 6 * y * b + 6 * c) for a, b, c in random.random((3, 3))]
    pixels = 128 + 60 * np.stack(waves, axis=2)
    for _ in range(6):
        left, top = random.integers(0, 400), random.integers(0, 300)
        cv2.rectangle(
            pixels, (int(left), int(top)), (int(left) + 80, int(top) + 60),
            random.integers(0, 256, 3).tolist(), -1,
        )  # fmt: skip
    pixels += random.normal(0, 6, pixels.shape)
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    picture.save(path, quality=90)


def compare(name: str, folder: Path, scratch: Path, arguments: argparse.Namespace) -> float:
    """Print both rates for the JPEG files below a folder, and return the ratio."""
    uris = PrepareUris(
        images_uri=str(folder), store_uri=f"{scratch}/store", out_uri=f"{scratch}/out"
    )
    dataset = open_dataset(prepare(uris, PrepareConfig())["datasets"]["images"])
    files = sorted(folder.rglob("*.jpg"))[: arguments.peer_images]
    ours, theirs = [], []
    for repeat in range(arguments.repeats):
        theirs.append(rate(lightly_views(files)))
        stream = ImageStream(dataset, batch_size=BATCH, seed=repeat)
        ours.append(rate(our_views(stream, arguments.images)))
    fast, slow = statistics.median(ours), statistics.median(theirs)
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"{name}: ours {fast:.0f} images a second and core, lightly {slow:.0f}: {fast / slow:.1f} "
        f"times ({ratios[0]:.1f} to {ratios[-1]:.1f})",
        flush=True,
    )
    return fast / slow


def our_views(stream: ImageStream, count: int) -> Callable[[], int]:
    """Return what draws two views of some images of the shards."""
    config = PretrainConfig.from_values(
        {"preset": "paper", "augmentation": "fast", "global_batch_size": BATCH}
    )
    views = ViewDataset(config)

    def draw() -> int:
        batches = itertools.islice(TrainingOrder(stream, 100), count // BATCH)
        return sum(len(views.__getitems__(batch).pixels) for batch in batches)

    return draw


def lightly_views(files: list[Path]) -> Callable[[], int]:
    """Return what draws two views of each file as lightly's documentation does."""
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(input_size=224)
    contents = [path.read_bytes() for path in files]

    def draw() -> int:
        for content in contents:
            with Image.open(io.BytesIO(content)) as image:
                transform(image.convert("RGB"))
        return len(contents)

    return draw


def rate(draw: Callable[[], int]) -> float:
    """Return images a second of CPU time of this process, all its threads."""
    start = time.process_time()
    images = draw()
    return images / (time.process_time() - start)


if __name__ == "__main__":
    sys.exit(main())
