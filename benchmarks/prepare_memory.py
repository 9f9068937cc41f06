"""Claim: when a set grows ten times, prepare needs 1.25 times the memory and 11 times the time.

Each size is prepared by a process of its own, from one folder into another. The memory is the peak
of what the process and those it starts to check images have for themselves together, interpreters
and libraries included. Files that it maps, such as
the thumbnails while near copies are sought, are printed beside it: the system takes that memory
back whenever another needs it.

python benchmarks/prepare_memory.py [--images 3000] [--growth 10]
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

MEMORY_LIMIT = 1.25
SIDE_PX = 160
PREPARE = """
import contextlib, os, sys, threading
from pathlib import Path
from sightline.__main__ import main
from sightline.prepare import run
peak, ended = {"RssAnon": 0, "RssFile": 0}, threading.Event()
def started():
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(folder)
    return found
def look(others=()):
    now = dict.fromkeys(peak, 0)
    for folder in (Path("/proc/self"), *others):
        with contextlib.suppress(OSError):
            for line in (folder / "status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in now:
                    now[name] += int(value.split()[0])
    for name in peak:
        peak[name] = max(peak[name], now[name])
def watch():
    looks, others = 0, []
    while not ended.wait(0.01):
        if looks % 25 == 0:
            others = started()
        look(others)
        looks += 1
look()
before = peak["RssAnon"]
watcher = threading.Thread(target=watch)
watcher.start()
code = main(["prepare", *sys.argv[1:]])
ended.set()
watcher.join()
print(before, *peak.values())
sys.exit(code)
"""


def main() -> int:
    """Print memory and time of both sizes; 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--growth", type=int, default=10)
    arguments = parser.parse_args()
    sizes = (arguments.images, arguments.images * arguments.growth)
    time_limit = 1.1 * arguments.growth
    measured = []
    with tempfile.TemporaryDirectory(prefix="sightline-memory-") as scratch:
        make_images(Path(scratch, "images"), 0, 50)
        measure(Path(scratch), "warm-up")  # reads the libraries from disk
        have = 50
        for size in sizes:
            make_images(Path(scratch, "images"), have, size)
            have = size
            before, peak, mapped, seconds = measure(Path(scratch), f"{size}")
            measured.append((peak, seconds))
            print(
                f"{size:>8} images: peak {peak:.0f} MiB ({before:.0f} before any image), "
                f"{mapped:.0f} of mapped files, {seconds:.1f} s, "
                f"{1000 * seconds / size:.2f} ms an image",
                flush=True,
            )
    (small_mib, small_seconds), (large_mib, large_seconds) = measured
    memory, duration = large_mib / small_mib, large_seconds / small_seconds
    print(f"memory {memory:.2f} times, limit {MEMORY_LIMIT:g}: ", end="")
    print("kept" if memory <= MEMORY_LIMIT else "missed")
    print(f"time {duration:.1f} times, limit {time_limit:g}: ", end="")
    print("kept" if duration <= time_limit else "missed")
    return int(memory > MEMORY_LIMIT or duration > time_limit)


def make_images(folder: Path, start: int, stop: int) -> None:
    """Write noisy gray pictures, four of each patient, a thousand a folder."""
    for number in range(start, stop):
        random = np.random.default_rng(number)
        y, x = np.mgrid[:SIDE_PX, :SIDE_PX] / SIDE_PX
        wave = np.sin(9 * x * random.random() + 6 * y * random.random() + 6 * random.random())
        gray = 128 + 60 * wave + random.normal(0, 20, size=wave.shape)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        path = folder / f"{number // 1000}" / f"p{number // 4:06d}_{number % 4}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())


def measure(scratch: Path, name: str) -> tuple[float, float, float, float]:
    """Prepare what is there; MiB before, at the peak and of mapped files, and seconds in all."""
    command = [
        *(sys.executable, "-c", PREPARE, f"--images-uri={scratch / 'images'}"),
        f"--store-uri={scratch / name / 'datasets'}",
        f"--out-uri={scratch / name / 'out'}",
        r"--group-pattern=(p\d+)_",
    ]
    start = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    before, peak, mapped = (int(kib) / 1024 for kib in ended.stdout.split()[-3:])
    return before, peak, mapped, seconds


if __name__ == "__main__":
    sys.exit(main())
