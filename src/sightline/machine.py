"""What this process may use of the machine, and whether it is one of several.

In a container that is less than the machine has: `os.cpu_count()` and the machine's memory are
those of the whole node; what a pod may use stands in its control groups, of version 2
(`memory.max`, `cpu.max`) or 1.
https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def started_by_torchrun() -> bool:
    """Say whether this process is one of several that torchrun started."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ)


def usable_cores(groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> int:
    """Return how many cores this process may keep busy, at least 1; part of one counts as one."""
    # Where only some cores are allowed (taskset, a cpuset), the others do not count.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = float(allowed or 1)
    for folder in _folders(groups, own, "cpu"):
        words = (_read(folder / "cpu.max") or "max").split()
        if len(words) == 2 and words[0].isdigit():
            cores = min(cores, int(words[0]) / int(words[1]))
        quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit():  # without a limit the quota is -1
            cores = min(cores, int(quota) / int(period))
    return max(1, math.ceil(cores))


def usable_memory_bytes(groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the machine's memory, or the least that a control group allows."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _folders(groups, own, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _read(folder / name)
            if limit.isdigit():  # without a limit: max, or in version 1 nearly 2**63
                memory = min(memory, int(limit))
    return memory


def _folders(groups: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, up to the root: each may limit.

    Inside a container the path often is that of the node, and the root the container's own group.
    """
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = groups / controller if controllers else groups
        folder = root / path.strip("/")
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(root))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
