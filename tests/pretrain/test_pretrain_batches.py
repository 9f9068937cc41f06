import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from photos import draw_photo

from sightline.data import open_dataset
from sightline.data.stream import ArrayStream, ImageStream
from sightline.errors import UserError
from sightline.pretrain import PretrainConfig
from sightline.pretrain.batches import (
    TrainingOrder,
    ViewDataset,
    _on_device,
    group_number,
    load_batches,
)


@pytest.fixture
def stream(labelled_dataset):
    """Return the 36 training images of three classes in batches of 8."""
    return ImageStream(open_dataset(labelled_dataset), batch_size=8, seed=0, cache_bytes=2**20)


def places(order):
    return [[(epoch, image.index) for epoch, image in batch] for batch in order]


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_the_processes_shares_make_up_the_batches_of_one_process(world_size, stream):
    alone = places(TrainingOrder(stream, 3))
    shares = [
        places(TrainingOrder(stream, 3, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert all(len(share) == 8 // world_size for batches in shares for share in batches)
    joined = [sorted(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == [sorted(batch) for batch in alone]


def test_an_epoch_sees_every_image_once_and_leaves_out_the_incomplete_batch(stream):
    order = TrainingOrder(stream, 2)
    batches = places(order)
    assert [len(batch) for batch in batches] == [8] * 8
    assert len(order) == 8
    for epoch in (1, 2):
        seen = [index for batch in batches for e, index in batch if e == epoch]
        assert len(seen) == len(set(seen)) == 32
    assert batches[:4] != batches[4:]


def test_only_training_images_are_seen(stream, labelled_dataset):
    known = {sample.sha256 for sample in open_dataset(labelled_dataset).split("train").samples}
    seen = {image.sample.sha256 for batch in TrainingOrder(stream, 3) for _, image in batch}
    assert seen == known


@pytest.mark.parametrize("position", [(1, 0), (1, 3), (2, 0), (2, 2), (3, 4)])
def test_from_a_position_on_the_batches_are_those_of_the_whole_run(position, stream):
    epoch, step = position
    rest = TrainingOrder(stream, 3, start_epoch=epoch, start_step=step)
    whole = places(TrainingOrder(stream, 3))
    assert places(rest) == whole[4 * (epoch - 1) + step :]
    assert len(rest) == len(whole) - 4 * (epoch - 1) - step


@pytest.mark.parametrize("rank", [0, 1])
def test_a_resumed_process_sees_its_own_share_of_the_rest(rank, stream):
    share = {"rank": rank, "world_size": 2}
    rest = TrainingOrder(stream, 2, **share, start_epoch=2, start_step=1)
    assert places(rest) == places(TrainingOrder(stream, 2, **share))[5:]


@pytest.fixture(params=["arrays", "shards"])
def source(request, stream):
    if request.param == "shards":
        return stream
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (40, 48, 3), dtype=np.uint8) for _ in range(17)]
    groups = [f"patient {index % 3}" for index in range(17)]
    return ArrayStream(images, groups, batch_size=8, seed=0)


def require_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("augmentation", ["fast", "exact"])
def test_views_are_the_same_whatever_the_number_of_loader_processes(source, augmentation):
    batches = []
    for processes in (0, 2):
        config = PretrainConfig(
            image_size=32,
            global_batch_size=8,
            epochs=2,
            loader_processes=processes,
            augmentation=augmentation,
        )
        batches.append(list(load_batches(source, config, torch.device("cpu"))))
    assert len(batches[0]) == 2 * source.steps_per_epoch
    require_equal(*batches)


def test_loader_processes_draw_after_opencv_has_worked_in_several_threads(source):
    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (9, 9), 2.0)
        config = PretrainConfig(
            image_size=32, global_batch_size=8, epochs=1, loader_processes=1, stall_minutes=0.2
        )
        drawn = list(load_batches(source, config, torch.device("cpu")))
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(threads)
    assert len(drawn) == source.steps_per_epoch


@pytest.mark.parametrize("augmentation", ["fast", "exact"])
def test_from_a_position_on_the_views_are_those_of_the_whole_run(source, augmentation):
    config = PretrainConfig(image_size=32, global_batch_size=8, epochs=2, augmentation=augmentation)
    whole = list(load_batches(source, config, torch.device("cpu")))
    # A process that stops has drawn views ahead that no step saw; the next begins with those.
    stopped = load_batches(source, config, torch.device("cpu"))
    before = [next(stopped) for _ in range(source.steps_per_epoch + 1)]
    stopped.close()
    rest = load_batches(source, config, torch.device("cpu"), start_epoch=2, start_step=1)
    require_equal([*before, *rest], whole)


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("kind", ["gray", "colour"])
def test_views_that_a_device_paints_are_those_that_a_processor_paints(kind, device):
    photos = [draw_photo(48, index) for index in range(8)]
    (batch,) = ArrayStream(photos, None, batch_size=8, seed=0).batches(1)
    if kind == "gray":
        batch = [
            image._replace(content=b"P5 48 48 255\n" + photo[:, :, 1].tobytes())
            for image, photo in zip(batch, photos, strict=True)
        ]
    config = PretrainConfig(image_size=32, global_batch_size=8, epochs=1, augmentation="fast")
    keys = [(1, image) for image in batch]
    painted, unpainted = (
        [part.cpu() for part in _on_device(drawn, torch.device(device), 23)]
        for drawn in (ViewDataset(config, paints).__getitems__(keys) for paints in (True, False))
    )
    for found, expected in zip(unpainted[:2], painted[:2], strict=True):
        assert found.shape == expected.shape == (8, 3, 32, 32)
        difference = (found.int() - expected.int()).abs()
        assert difference.max() <= 4
        assert difference.float().mean() < 0.5
    assert torch.equal(unpainted[2], painted[2])


def test_a_batch_carries_the_numbers_of_its_images_groups(source):
    config = PretrainConfig(image_size=32, global_batch_size=8, epochs=1)
    expected = [
        [group_number(image.sample.group) for _, image in batch]
        for batch in TrainingOrder(source, 1)
    ]
    found = [
        numbers.tolist() for _, _, numbers in load_batches(source, config, torch.device("cpu"))
    ]
    assert found == expected
    assert len({number for batch in found for number in batch}) > 2


def test_views_do_not_depend_on_what_else_is_in_the_batch(labelled_dataset):
    # The counters are seed, epoch, image and view: another batch size changes none of them.
    dataset = open_dataset(labelled_dataset)
    seen = []
    for size in (2, 6):
        stream = ImageStream(dataset, batch_size=size, seed=0, cache_bytes=2**20)
        config = PretrainConfig(image_size=32, global_batch_size=size, epochs=1)
        indices = [image.index for batch in TrainingOrder(stream, 1) for _, image in batch]
        firsts = torch.cat(
            [first for first, _, _ in load_batches(stream, config, torch.device("cpu"))]
        )
        seen.append(dict(zip(indices, firsts, strict=True)))
    assert len(seen[0]) == len(seen[1]) == 36
    for index, view in seen[0].items():
        assert torch.equal(view, seen[1][index])


def test_an_altered_shard_stops_the_run_also_in_loader_processes(labelled_dataset, tmp_path):
    store = shutil.copytree(Path(labelled_dataset).parent, tmp_path / "store")
    for shard in (store / "shards").iterdir():
        content = bytearray(shard.read_bytes())
        content[700:900] = bytes(200)  # inside the first image
        shard.write_bytes(content)
    dataset = open_dataset(str(store / Path(labelled_dataset).name))
    stream = ImageStream(dataset, batch_size=8, seed=0, cache_bytes=2**20)
    config = PretrainConfig(image_size=32, global_batch_size=8, epochs=1, loader_processes=2)
    with pytest.raises(UserError, match="was altered"):
        list(load_batches(stream, config, torch.device("cpu")))


ASKED_TO_END = """
import os, signal, time
from multiprocessing import forkserver, resource_tracker
from sightline.pretrain.batches import _clean_processes

processes = _clean_processes()
started = [forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid]
drawing = processes.Process(target=time.sleep, args=(1,))
drawing.start()
for number in (signal.SIGTERM, signal.SIGHUP):
    for process in [*started, drawing.pid]:
        os.kill(process, number)
drawing.join()
print(drawing.exitcode, [os.waitpid(process, os.WNOHANG)[0] for process in started])
"""


def test_what_loader_processes_come_from_outlives_a_wish_to_end_to_the_whole_group():
    command = [sys.executable, "-c", ASKED_TO_END]
    assert subprocess.check_output(command, text=True) == "0 [0, 0]\n"


HANGS_AT_THE_END = """
import multiprocessing, os, signal
import numpy as np, torch
from sightline.data.stream import ArrayStream
from sightline.pretrain import PretrainConfig
from sightline.pretrain.batches import load_batches

images = [np.zeros((32, 32, 3), np.uint8)] * 64
config = PretrainConfig(image_size=32, global_batch_size=8, epochs=1, loader_processes=2)
source = ArrayStream(images, None, batch_size=8, seed=0, lanes=8)
batches = load_batches(source, config, torch.device("cpu"))
next(batches)
drawing = multiprocessing.active_children()
print(*(process.pid for process in drawing), flush=True)
for process in drawing:
    os.kill(process.pid, signal.SIGSTOP)
"""


def test_a_loader_process_that_hangs_keeps_no_training_from_its_end():
    command = [sys.executable, "-c", HANGS_AT_THE_END]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    drawing = ended.stdout.split()
    assert len(drawing) == 2
    assert not [number for number in drawing if Path(f"/proc/{number}").exists()]
