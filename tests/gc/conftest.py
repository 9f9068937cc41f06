"""Roots such as pipeline runs leave behind, in a folder and in a bucket."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from sightline.config import StepConfig, StepUris
from sightline.data import Sample, write_dataset
from sightline.data.publish import publish_dataset
from sightline.data.shards import PackedImage, ShardWriter
from sightline.gc.config import GcConfig, GcUris
from sightline.gc.run import Collection
from sightline.promote.champion import ChampionStore
from sightline.storage import join_uri, new_artifacts, open_storage
from sightline.storage.artifacts import write_json
from sightline.storage.begun import step_begun
from sightline.training.checkpoint import Checkpoints

DAY = 86400.0


class StandInConfig(StepConfig):
    """Settings of a stand-in step."""


class StandInUris(StepUris):
    """Addresses of a stand-in step."""

    dataset_uri: str = ""
    encoder_uri: str = ""
    out_uri: str


class Root:
    """What runs were given as `out`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.storage = open_storage(uri)

    def dataset(self, *contents: bytes) -> str:
        """Publish a version with one image a content, and return its address."""
        images = [
            PackedImage(content, "png", f"{place}.png", f"g{place}", "train", 1, 1)
            for place, content in enumerate(contents)
        ]
        return write_dataset(images, join_uri(self.uri, "datasets"), kind="images")

    def datasets_of_shared_shards(self, *versions: Sequence[bytes]) -> list[str]:
        """Publish versions of which each content is a shard, stored once for all of them."""
        store = join_uri(self.uri, "datasets")
        found = []
        for contents in versions:
            samples = []
            with ShardWriter(store, shard_size_bytes=1) as writer:
                for place, content in enumerate(contents):
                    shard, offset, size, digest = writer.add(content, "png")
                    name = f"{place}.png"
                    samples.append(Sample(name, name, "train", digest, shard, offset, size, 1, 1))
                shards = writer.close()
            assert len(shards) == len(contents)
            counts = {"images": len(samples)}
            found.append(
                publish_dataset(
                    store,
                    kind="images",
                    classes=(),
                    shards=shards,
                    samples=samples,
                    counts=counts,
                    groups=len(samples),
                )
            )
        return found

    def step(self, run_id: str, step: str, metrics: Mapping[str, Any], **uris: str) -> str:
        """Publish a finished step of a run, and return its address."""
        return self.step_at(f"{run_id}/{step}", step, metrics, **uris)

    def step_at(self, place: str, step: str, metrics: Mapping[str, Any], **uris: str) -> str:
        """Publish a finished step below `runs` under a name of the user's own."""
        uri = join_uri(self.uri, "runs", place)
        given = StandInUris(out_uri=uri, **uris)
        with new_artifacts(step, given, StandInConfig(), uri) as folder:
            (folder / "pictures").mkdir()
            (folder / "pictures" / "one.jpg").write_bytes(b"picture")
            write_json(folder / "metrics.json", metrics)
        return uri

    def begun(self, place: str, step: str, **uris: str) -> AbstractContextManager[None]:
        """Return a context in which a step below `runs` is under way, with nothing stored yet."""
        return step_begun(step, StandInUris(out_uri=join_uri(self.uri, "runs", place), **uris))

    def begin_training(self, place: str, dataset_uri: str) -> None:
        """Leave what a pretraining below `runs` has stored that did not end."""
        uri = join_uri(self.uri, "runs", place, "checkpoints")
        with suppress(KeyboardInterrupt), self.begun(place, "pretrain", dataset_uri=dataset_uri):
            raise KeyboardInterrupt
        checkpoints = Checkpoints(open_storage(uri), "pretrain", "owner")
        checkpoints.take_over()
        checkpoints.save({"step": 1}, 1, wait=True)

    def run(self, run_id: str, *datasets: str) -> str:
        """Publish a run that prepared data sets."""
        return self.step(run_id, "prepare", {"datasets": dict(enumerate(datasets))})

    def promote(
        self, version: str, dataset_uri: str = "", name: str = "default", **record: str
    ) -> ChampionStore:
        """Make a version the champion."""
        store = ChampionStore(join_uri(self.uri, "models"), "classification", name)
        model_uri = store.model_uri(version)
        if not open_storage(model_uri).exists("artifacts.json"):
            with new_artifacts(
                "promote", StandInUris(out_uri=model_uri), StandInConfig(), model_uri
            ) as folder:
                (folder / "classifier.pth").write_bytes(version.encode())
        described = {"version": version, "dataset_uri": dataset_uri, **record}
        assert store.move(described, store.read())
        return store

    def gc(self, days_later: float = 100, **settings: Any) -> dict[str, Any]:
        """Collect, as seen some days from now."""
        config = GcConfig.from_values({"delete": True, "keep_runs": 0, **settings})
        now = time.time() + days_later * DAY
        return Collection(GcUris(root_uri=self.uri), config, now).collect()

    def held(self, prefix: str = "") -> set[str]:
        """Return every key that is there."""
        return {entry.key for entry in self.storage.list(prefix)}

    def names(self, area: str, depth: int = 1) -> set[str]:
        """Return what lies right below an area."""
        return {"/".join(key.split("/")[1 : 1 + depth]) for key in self.held(f"{area}/")}

    def age(self, prefix: str, days: float) -> None:
        """Make files of a folder look older."""
        for key in self.held(prefix):
            path = Path(self.uri, key)
            moment = path.stat().st_mtime - days * DAY
            os.utime(path, (moment, moment))


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    """Return an empty root, once in a folder and once in a bucket."""
    if request.param == "folder":
        return Root(str(tmp_path / "out"))
    return request.getfixturevalue("bucket")


@pytest.fixture
def bucket(s3_bucket: str) -> Root:
    """Return an empty root in a bucket."""
    return Root(join_uri(s3_bucket, "out"))


@pytest.fixture
def folder(tmp_path: Path) -> Root:
    """Return an empty root in a folder, whose files' ages a test may choose."""
    return Root(str(tmp_path / "out"))
