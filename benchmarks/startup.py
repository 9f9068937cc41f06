"""Claim: help and refused settings answer at once, at most 0.5 s after a bare interpreter.

python benchmarks/startup.py [--repeats 11]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

LIMIT_SECONDS = 0.5
BARE = ["-c", "pass"]
COMMANDS = {
    "sightline --help": ["-m", "sightline", "--help"],
    "sightline pretrain --help": ["-m", "sightline", "pretrain", "--help"],
    "sightline pretrain --epocs 3": ["-m", "sightline", "pretrain", "--epocs", "3"],
    "python -m pipelines run --help": ["-m", "pipelines", "run", "--help"],
}


def main() -> int:
    """Print what each command costs beyond `python -c pass`; 1 if one is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    cost: dict[str, list[Cost]] = {name: [] for name in ("bare", *COMMANDS)}
    for _ in range(repeats):  # in turns, so that a slow moment of the machine meets all alike
        cost["bare"].append(measure(BARE))
        for name, arguments in COMMANDS.items():
            cost[name].append(measure(arguments))
    bare = median_of(cost.pop("bare"))
    print(f"python -c pass: {bare.seconds:.3f} s, {bare.cpu_seconds:.3f} s of CPU, n = {repeats}")
    print(f"{'more than that':<32} {'seconds':>8} {'CPU':>8} {'limit':>8}  verdict")
    failed = False
    for name, costs in cost.items():
        own = median_of(costs)
        more, cpu = own.seconds - bare.seconds, own.cpu_seconds - bare.cpu_seconds
        failed |= more > LIMIT_SECONDS
        verdict = "over" if more > LIMIT_SECONDS else "kept"
        print(f"{name:<32} {more:>6.3f} s {cpu:>6.3f} s {LIMIT_SECONDS:>6.1f} s  {verdict}")
    return int(failed)


class Cost(NamedTuple):
    """What one process took; a busy machine stretches the seconds, hardly the CPU's."""

    seconds: float
    cpu_seconds: float


def median_of(costs: list[Cost]) -> Cost:
    """Return the medians of both."""
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def measure(arguments: list[str]) -> Cost:
    """Return what one Python process costs from its start to its end."""
    start, cpu_start = time.perf_counter(), cpu_of_children()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return Cost(time.perf_counter() - start, cpu_of_children() - cpu_start)


def cpu_of_children() -> float:
    """Return the CPU seconds of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
