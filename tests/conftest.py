"""Tiny seeded images and data sets that any part's tests may start from."""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_proxy import FaultProxy
from numpy.typing import NDArray
from PIL import Image

from sightline.data import SPLITS, Box, PackedDataset, write_dataset
from sightline.data.shards import PackedImage
from sightline.storage import open_storage

CLASSES = ("checks", "columns", "rows")


@dataclass(frozen=True)
class S3Server:
    """An S3 server for tests, and the credentials that may do everything there."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """Return what a process needs in its environment to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SIGHTLINE_S3_ENDPOINT_URL": self.endpoint_url,
        }

    def client(self) -> Any:
        """Return a plain boto3 client, for what a test does behind Sightline's back."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    @contextlib.contextmanager
    def fresh_bucket(self) -> Iterator[str]:
        """Make a bucket, give its name, and remove it with all that is in it."""
        client, bucket = self.client(), f"sightline-{uuid.uuid4().hex[:16]}"
        client.create_bucket(Bucket=bucket)
        try:
            yield bucket
        finally:
            for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
                client.abort_multipart_upload(
                    Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                keys = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
                if keys:
                    client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            client.delete_bucket(Bucket=bucket)
            client.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Return the real server that TESTBED_S3_* name, else one of moto in a thread of ours."""
    if endpoint_url := os.environ.get("TESTBED_S3_ENDPOINT"):
        yield S3Server(
            endpoint_url,
            os.environ["TESTBED_S3_ACCESS_KEY"],
            os.environ["TESTBED_S3_SECRET_KEY"],
        )
        return
    moto = pytest.importorskip("moto.server", reason="needs TESTBED_S3_ENDPOINT or moto and flask")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield S3Server(f"http://{host}:{port}", "testing-key-id", "testing-secret")
    server.stop()


def use_server(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process and those it starts reach a server, and nothing else of AWS."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "SIGHTLINE_S3_")):
            monkeypatch.delenv(name)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return `s3://<bucket>` of a fresh bucket that `open_storage` reaches; it is removed after."""
    use_server(s3_server, monkeypatch)
    with s3_server.fresh_bucket() as bucket:
        yield f"s3://{bucket}"


@pytest.fixture(scope="session")
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """Return the one proxy of the tests: a client of boto3 costs more than most of them."""
    proxy = FaultProxy(s3_server.endpoint_url)
    yield proxy
    proxy.stop()


@pytest.fixture
def faults(
    proxy: FaultProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """Return a healthy proxy in front of `s3_bucket`'s server; storages go through it."""
    del s3_bucket  # it sets the rest of the environment
    monkeypatch.setenv("SIGHTLINE_S3_ENDPOINT_URL", proxy.url)
    proxy.restart()
    yield proxy
    proxy.restart()


@pytest.fixture
def on_s3(s3_bucket: str) -> Callable[[str], str]:
    """Return `copy(dataset_uri)`: it copies a data set's store to S3, and returns the address."""

    def copy(dataset_uri: str) -> str:
        store, _, version = dataset_uri.rpartition("/")
        source, target = open_storage(store), open_storage(f"{s3_bucket}/datasets")
        for entry in source.list():
            target.write_bytes(entry.key, source.read_bytes(entry.key))
        return f"{s3_bucket}/datasets/{version}"

    return copy


def draw_pattern(class_name: str, seed: int, side_px: int = 32) -> NDArray[np.uint8]:
    """Draw a noisy gray pattern of one class; a small network tells the three apart."""
    random = np.random.default_rng(seed)
    shift_y, shift_x = random.integers(0, 8, size=2)
    y, x = np.mgrid[:side_px, :side_px]
    rows = (y + shift_y) // 4 % 2
    columns = (x + shift_x) // 4 % 2
    pattern = {"rows": rows, "columns": columns, "checks": rows ^ columns}[class_name]
    gray = 60 + 120 * pattern + random.normal(0, 20, size=(side_px, side_px))
    clipped = np.clip(gray, 0, 255).astype(np.uint8)
    return np.repeat(clipped[:, :, None], 3, axis=2)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return the pixels as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    """Return `make(folder, classes, groups_per_class, images_per_group, side_px, seed)`.

    It writes `<folder>/<class>/<class>-p<group>_<slice>.png`, so `(p\\d+)_` is a group pattern
    within a class and `([a-z]+-p\\d+)_` is one over all classes, and returns the folder.
    """

    def make(
        folder: Path,
        classes: Sequence[str] = CLASSES,
        groups_per_class: int = 10,
        images_per_group: int = 2,
        side_px: int = 32,
        seed: int = 0,
    ) -> Path:
        for place, class_name in enumerate(classes):
            (folder / class_name).mkdir(parents=True, exist_ok=True)
            for group in range(groups_per_class):
                for number in range(images_per_group):
                    image_seed = seed + 10_000 * place + 100 * group + number
                    pattern = CLASSES[place % len(CLASSES)]
                    content = encode_png(draw_pattern(pattern, image_seed, side_px))
                    name = f"{class_name}-p{group:02d}_{number}.png"
                    (folder / class_name / name).write_bytes(content)
        return folder

    return make


@pytest.fixture(scope="session")
def labelled_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of 60 images of 32 px: 3 classes, 10 groups each, all three splits."""
    groups_per_split = {"train": 6, "val": 2, "test": 2}
    images = []
    for place, class_name in enumerate(CLASSES):
        group = 0
        for split in SPLITS:
            for _ in range(groups_per_split[split]):
                for number in range(2):
                    pixels = draw_pattern(class_name, 10_000 * place + 100 * group + number)
                    images.append(
                        PackedImage(
                            content=encode_png(pixels),
                            suffix="png",
                            name=f"{class_name}/{class_name}-p{group:02d}_{number}.png",
                            group=f"{class_name}-p{group:02d}",
                            split=split,
                            width=32,
                            height=32,
                            label=class_name,
                        )
                    )
                group += 1
    store = tmp_path_factory.mktemp("labelled-dataset")
    return write_dataset(images, str(store), kind="labels", classes=CLASSES)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the split of every image read from now on, in this process.

    A test appends marks of its own, such as where a training ends, to see what came before.
    """
    order: list[str] = []
    read_bytes = PackedDataset.read_bytes

    def read_and_note(dataset: PackedDataset, index: int) -> bytes:
        order.append(dataset.samples[index].split)
        return read_bytes(dataset, index)

    iter_bytes = PackedDataset.iter_bytes

    def iter_and_note(dataset: PackedDataset) -> Iterator[bytes]:
        for sample, content in zip(dataset.samples, iter_bytes(dataset), strict=True):
            order.append(sample.split)
            yield content

    monkeypatch.setattr(PackedDataset, "read_bytes", read_and_note)
    monkeypatch.setattr(PackedDataset, "iter_bytes", iter_and_note)
    return order


@pytest.fixture(scope="session")
def boxes_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of 16 images of 64 px with 1 or 2 boxes; one test image has none."""
    classes = ("disc", "square")
    random = np.random.default_rng(0)
    images = []
    for number in range(16):
        pixels = np.clip(random.normal(60, 15, size=(64, 64)), 0, 255)
        y, x = np.mgrid[:64, :64]
        boxes = []
        for place in range(0 if number == 15 else 1 + number % 2):
            class_name = classes[(number + place) % 2]
            radius = int(random.integers(7, 12))
            center_y = int(random.integers(14, 50))
            center_x = 16 + 32 * place + int(random.integers(-3, 4))
            dy, dx = np.abs(y - center_y), np.abs(x - center_x)
            inside = (
                dy**2 + dx**2 <= radius**2
                if class_name == "disc"
                else (np.maximum(dy, dx) <= radius)
            )
            pixels[inside] = 200
            side = (2 * radius + 1) / 64
            boxes.append(Box(class_name, (center_x + 0.5) / 64, (center_y + 0.5) / 64, side, side))
        gray = np.repeat(pixels.astype(np.uint8)[:, :, None], 3, axis=2)
        images.append(
            PackedImage(
                content=encode_png(gray),
                suffix="png",
                name=f"scene-{number:02d}.png",
                group=f"scene-{number:02d}",
                split="train" if number < 8 else "val" if number < 12 else "test",
                width=64,
                height=64,
                boxes=tuple(boxes),
            )
        )
    store = tmp_path_factory.mktemp("boxes-dataset")
    return write_dataset(images, str(store), kind="boxes", classes=classes)
