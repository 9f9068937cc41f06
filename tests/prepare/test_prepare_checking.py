"""Checking files in processes of their own: the same result, whoever dies."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from queue import SimpleQueue

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from sightline.errors import UserError
from sightline.images import ImageError
from sightline.prepare import checking, intake
from sightline.prepare.checking import CheckingProcess
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.pictures import Wanted, read_pictures
from sightline.prepare.run import run
from sightline.prepare.window import Item
from sightline.storage.local import LocalStorage
from tests.prepare.test_prepare_dicom import save_dicom

CONFIG = PrepareConfig(group_pattern=r"(p\d+)_", dicom_frames="split", max_bad_fraction=0.5)
# A whole run in two processes of its own; the step is told to use them for any set.
WITH_PROCESSES = """
import sys
from sightline.prepare import checking, intake
intake.PROCESSES_FROM = intake.PROCESSES_FROM_REQUESTS = 1
intake.usable_cores = lambda: 2
from sightline.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(intake, "PROCESSES_FROM", 1)
    monkeypatch.setattr(intake, "PROCESSES_FROM_REQUESTS", 1)
    monkeypatch.setattr(intake, "usable_cores", lambda: 2)


def make_images(folder, count=60):
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (24, 24), dtype=np.uint8)
        name = folder / f"p{number // 2:03d}_{number}"
        if number % 3:
            Image.fromarray(pixels).save(name.with_suffix(".png"))
        else:
            colour = np.ascontiguousarray(np.repeat(pixels[:, :, None], 3, axis=2))
            name.with_suffix(".jpg").write_bytes(simplejpeg.encode_jpeg(colour, 90, "RGB"))
    # Stored as another file than it is: scaled down, of 16 bits, and of several frames.
    Image.fromarray(random.integers(0, 256, (300, 280), np.uint8)).save(folder / "p900_a.png")
    Image.fromarray(random.integers(0, 2**16, (20, 20), np.uint16)).save(folder / "p901_b.png")
    save_dicom(folder / "p902_c.dcm", 1, patient="someone", frames=3)
    (folder / "p903_d.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (folder / "p904_e.png").write_bytes(b"")
    return folder


def prepare(root, images):
    uris = PrepareUris(images_uri=str(images), store_uri=f"{root}/s", out_uri=f"{root}/o")
    metrics = run(uris, CONFIG)
    files = {path.relative_to(root): path.read_bytes() for path in (root / "s").rglob("*.*")}
    return metrics["rejected"], files


def checking_processes(parent):
    """Return the ids of a process's children that check images."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            if (
                int(status[1]) == parent
                and b"prepare.checking" in (folder / "cmdline").read_bytes()
            ):
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not come about in 30 s")


def serve(*values):
    """Let one process check files, and return the items."""
    items, queue = [Item(value, 0) for value in values], SimpleQueue()
    for item in (*items, None):
        queue.put(item)
    CheckingProcess().serve(queue, lambda item: item.end())
    return items


def test_processes_give_byte_for_byte_what_threads_give(tmp_path, monkeypatch, two_processes):
    images = make_images(tmp_path / "images")
    shared = prepare(tmp_path / "a", images)
    monkeypatch.setattr(intake, "PROCESSES_FROM", 1000)
    assert prepare(tmp_path / "b", images) == shared
    assert not checking_processes(os.getpid())


def test_process_that_is_killed_costs_nothing(tmp_path, monkeypatch, two_processes):
    images = make_images(tmp_path / "images")
    read, reads, killed = LocalStorage.read_bytes, iter(range(1000)), []

    def read_and_kill(self, *arguments):
        content = read(self, *arguments)
        if next(reads) == 40:
            wait_until(lambda: checking_processes(os.getpid()))
            for process in checking_processes(os.getpid()):
                os.kill(process, signal.SIGKILL)
                killed.append(process)
        return content

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "read_bytes", read_and_kill)
        broken = prepare(tmp_path / "a", images)
    assert killed
    monkeypatch.setattr(intake, "PROCESSES_FROM", 1000)
    assert prepare(tmp_path / "b", images) == broken


def test_file_whose_process_dies_again_is_named(tmp_path, monkeypatch):
    # Python itself reads this file when it starts; here it makes the decoder crash on one name.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sightline.images as images\n"
        "read = images.read_file\n"
        "def crash_or_read(content, name, **options):\n"
        "    if name == 'bad.png':\n        os.kill(os.getpid(), 11)\n"
        "    return read(content, name, **options)\n"
        "images.read_file = crash_or_read\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    Image.new("L", (32, 32), 9).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    names = ["1.png", "2.png", "bad.png", "3.png"]
    items = serve(*((name, Wanted(name, "refuse", 32), content) for name in names))
    for item in items[:2]:
        assert item.result()[2] == read_pictures(content, Wanted("x.png", "refuse", 32))
    for item in items[2:]:
        with pytest.raises(
            UserError, match=r"died again \(SIGSEGV\) at bad.png: give it more memory"
        ):
            item.result()
    assert not checking_processes(os.getpid())


def test_reasons_and_failures_come_back(tmp_path):
    good, reason = Wanted("a.png", "refuse", 32), ImageError("was removed")
    items = serve(
        ("a", good, b"text"), ("b", good, reason), ("c", Wanted("c", "refuse", "x"), b"GIF")
    )
    assert str(items[0].result()[2]) == "no image that can be read (it starts with b'text')"
    assert items[1].result() == ("b", b"", reason)
    assert isinstance(items[2].result()[2], ImageError)
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    wrong = ("d", Wanted("a.png", "refuse", "no number"), (tmp_path / "a.png").read_bytes())
    with pytest.raises(RuntimeError, match=r"(?s)checking an image failed:.*TypeError"):
        serve(wrong)[0].result()


def test_set_with_too_many_bad_files_ends_early(tmp_path, two_processes):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}.png").write_bytes(b"no image")
    uris = PrepareUris(images_uri=str(folder), store_uri=f"{tmp_path}/s", out_uri=f"{tmp_path}/o")
    with pytest.raises(UserError, match="at least 11 of 200 images of images_uri"):
        run(uris, PrepareConfig())
    assert not checking_processes(os.getpid())


@pytest.fixture
def begun(tmp_path):
    """Start the step on images that never end, and return it with its processes."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(random.integers(0, 256, (900, 900), np.uint8)).save(
            folder / f"{number}.png"
        )
    store = tmp_path / "store"
    arguments = [f"--images-uri={folder}", f"--store-uri={store}", f"--out-uri={tmp_path / 'out'}"]
    with subprocess.Popen(
        [sys.executable, "-c", WITH_PROCESSES, "prepare", *arguments],
        env={**os.environ, "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_ACCESS_KEY_ID": "AKIAKEY"},
        stderr=subprocess.PIPE,
        text=True,
    ) as step:
        wait_until(lambda: step.poll() is not None or len(checking_processes(step.pid)) == 2)
        yield step, checking_processes(step.pid), store
        step.kill()


def test_step_that_is_killed_leaves_no_process_and_no_half_result(begun):
    step, processes, store = begun
    assert len(processes) == 2
    step.kill()
    step.wait()
    wait_until(lambda: not any(is_alive(process) for process in processes))
    assert not list(store.glob("*/manifest.json"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_step_that_is_stopped_ends_its_processes_without_a_word_of_them(begun, number, code):
    step, processes, _ = begun
    step.send_signal(number)
    stderr = step.communicate(timeout=30)[1]
    assert step.returncode == code
    assert "Traceback" not in stderr
    wait_until(lambda: not any(is_alive(process) for process in processes))


def test_processes_know_no_credentials(begun):
    _, processes, _ = begun
    for process in processes:
        told = b"".join(Path(f"/proc/{process}/{n}").read_bytes() for n in ("environ", "cmdline"))
        assert b"PYTHONPATH" in told
        assert b"a-secret" not in told
        assert b"AKIAKEY" not in told


@pytest.mark.usefixtures("two_processes")
def test_lack_of_memory_ends_the_step_with_the_file_s_name(tmp_path, monkeypatch):
    images = make_images(tmp_path / "images")
    # 16 bits and alpha: more than the limit lets its process have.
    large = np.zeros((5000, 5000, 4), np.uint16)
    (images / "p905_f.png").write_bytes(cv2.imencode(".png", large)[1].tobytes())
    monkeypatch.setattr(checking, "_start", limited(checking._start, 200 * 2**20))
    with pytest.raises(UserError, match=r"the memory does not suffice to read p905_f\.png"):
        prepare(tmp_path, images)


def limited(start, more_bytes):
    """Return a `start` whose process may take so much more memory than it has once it runs."""

    def start_limited():
        process = start()
        # Its imports are done when it has answered for an empty file.
        checking._write(process.stdin, Wanted("", "refuse", 256), [b""])
        checking._read(process.stdout)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + more_bytes
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
        return process

    return start_limited
