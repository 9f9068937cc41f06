"""Which group an image belongs to, and which split a group goes to."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sightline.config import UserError
from sightline.data import SPLITS, derived_seed
from sightline.prepare.folders import Findings, FoundImage
from sightline.prepare.table import Row
from sightline.telemetry import count

Rows = Mapping[tuple[str, str], Row]


@dataclass(frozen=True)
class Grouping:
    """The group of every image by (kind, key), and where groups came from."""

    groups: dict[tuple[str, str], str]
    known: int
    warnings: tuple[str, ...]

    def of(self, image: FoundImage) -> str:
        """Return the image's group."""
        return self.groups[image.kind, image.key]

    @property
    def source(self) -> str:
        """Say in words where the groups came from."""
        if not self.known:
            return "none: every image counts as its own group"
        return f"the table or group_pattern, for {self.known} of {len(self.groups)} images"


def group_images(images: Sequence[FoundImage], rows: Rows, group_pattern: str) -> Grouping:
    """Give each image its group: the table's, else what the pattern finds, else its own path.

    The path is the whole one below the folder, so that no other image has a say in it:
    `train/ring/1.png` and `test/ring/1.png` are two pictures that merely share a name.
    """
    groups, alone = {}, []
    for image in images:
        row = rows.get((image.kind, image.key))
        group = row.group if row else ""
        if not group and group_pattern:
            match = re.search(group_pattern, image.key)
            group = (match.group(1) or "") if match else ""
        if not group:
            alone.append(image.key)
            group = image.key
        groups[image.kind, image.key] = group
    warnings = []
    if len(alone) == len(images):
        warnings.append(
            "No groups are known, so every image counts as its own group: slices of one patient "
            "may be in two splits, and then every number is too good. Give a table with a group "
            "column, or group_pattern"
        )
    elif alone:
        have = "has no group and counts" if len(alone) == 1 else "have no group and count"
        warnings.append(
            f"{count(len(alone), 'image')} {have} as a group alone: {', '.join(alone[:5])}"
        )
    return Grouping(groups, len(images) - len(alone), tuple(warnings))


def split_of(
    group: str,
    seed: int,
    test_fraction: float,
    val_fraction: float,
    allowed: Collection[str] = SPLITS,
) -> str:
    """Return a group's split: a function of its name and the seed, whatever else is there."""
    share = derived_seed("split", seed, group) / 2**63
    limit = 0.0
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        if split in allowed:
            limit += fraction
            if share < limit:
                return split
    return "train" if "train" in allowed else max(allowed)


def assign_splits(
    found: Sequence[Findings],
    grouping: Grouping,
    rows: Rows,
    seed: int,
    test_fraction: float,
    val_fraction: float,
) -> dict[str, str]:
    """Return the split of every group, one over all folders.

    The table decides first, then split folders, then `split_of`. In a folder with `train/` and
    `test/` but no `val/`, val is drawn from the groups in `train/`; once there is a `val/`, all
    of them are training groups. Nothing else that is added to a folder moves a group.

    Raises:
        UserError: If the table or the folders put one group into two splits.
    """
    allowed: dict[str, set[str]] = defaultdict(lambda: set(SPLITS))
    from_table: dict[str, set[str]] = defaultdict(set)
    for image in (image for findings in found for image in findings.images):
        row = rows.get((image.kind, image.key))
        if row and row.split:
            from_table[grouping.of(image)].add(row.split)
    _refuse(
        {g: names for g, names in from_table.items() if len(names) > 1},
        "the table puts",
        "correct the table",
    )
    from_folders: dict[str, set[str]] = defaultdict(set)
    for findings in found:
        meaning = _meaning_of_folders(findings)
        for image in findings.images:
            group = grouping.of(image)
            if image.folder_split and group not in from_table:
                from_folders[group].add(image.folder_split)
                allowed[group] &= meaning[image.folder_split]
    _refuse(
        {g: names for g, names in from_folders.items() if not allowed[g]},
        "the folders put",
        "move its images into one split folder, or name its split in a table (table_uri)",
    )
    groups = {grouping.of(image) for findings in found for image in findings.images}
    return {
        group: next(iter(from_table[group]))
        if group in from_table
        else split_of(group, seed, test_fraction, val_fraction, allowed[group])
        for group in groups
    }


def _meaning_of_folders(findings: Findings) -> dict[str, set[str]]:
    present = {image.folder_split for image in findings.images if image.folder_split}
    missing = set(SPLITS) - present
    return {split: {split} | (missing if split == "train" else set()) for split in SPLITS}


def _refuse(torn: Mapping[str, set[str]], who: str, advice: str) -> None:
    if torn:
        shown = "; ".join(f"{g} ({', '.join(sorted(torn[g]))})" for g in sorted(torn)[:5])
        raise UserError(
            f"{who} {count(len(torn), 'group')} into two splits: {shown}; a group (patient) must "
            f"be in one, or every number is too good: {advice}"
        )


def require_every_split(
    kind: str, classes: Sequence[str], placed: Sequence[tuple[str, str | None]]
) -> None:
    """Refuse a set with an empty split, or with a class that a split lacks.

    Args:
        kind: `images`, `labels` or `boxes`; unlabelled images need a train split only.
        classes: Every class that must be in each split; none: only emptiness counts.
        placed: Split and class of every image.

    Raises:
        UserError: With the counts and the ways out.
    """
    counts = Counter(split for split, _ in placed)
    wanted = ("train",) if kind == "images" else SPLITS
    missing = [f"{split} is empty" for split in wanted if not counts[split]]
    pairs = Counter(placed)
    missing += [
        f"{split} has no {name}"
        for name in classes
        for split in wanted
        if counts[split] and not pairs[split, name]
    ]
    if missing:
        raise UserError(
            f"{kind}: {'; '.join(missing[:6])} ({count(len(placed), 'image')}: "
            f"{', '.join(f'{counts[split]} {split}' for split in SPLITS)}): add groups, raise "
            "test_fraction or val_fraction, choose another split_seed, or give the splits in a "
            "table"
        )


def require_enough(
    classes: Sequence[str], placed: Sequence[tuple[str, str | None]], min_images_per_class: int
) -> None:
    """Refuse a class with too few images to say anything of it.

    Raises:
        UserError: With the counts.
    """
    counts = Counter(label for _, label in placed)
    few = [f"{name} has {counts[name]}" for name in classes if counts[name] < min_images_per_class]
    if few:
        raise UserError(
            f"every class needs at least {min_images_per_class} readable images, but "
            f"{', '.join(few)}: add images, or lower min_images_per_class"
        )
