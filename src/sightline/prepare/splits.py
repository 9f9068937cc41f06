"""Which group an image belongs to, and which split a group goes to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sightline.data import SPLITS, derived_seed
from sightline.errors import UserError
from sightline.prepare.catalogue import HAS_A_SAY, Catalogue
from sightline.telemetry import count

_SHOWN = 5


@dataclass(frozen=True)
class Grouping:
    """Of how many images in the sets the group is known, and where groups came from."""

    known: int
    images: int
    patients: int
    """Images whose group is the patient that the file itself names."""
    warnings: tuple[str, ...]

    @property
    def source(self) -> str:
        """Say in words where the groups came from."""
        if not self.known:
            return "none: every image counts as its own group"
        source = "the table or group_pattern"
        if self.patients == self.known:
            source = "the patient in the DICOM files"
        elif self.patients:
            source = "the table, group_pattern or the patient in the DICOM files"
        return f"{source}, for {self.known} of {self.images} images"


# A file's group by the user's own word; the function is defined below.
_NAMED = "COALESCE(NULLIF(table_group, ''), NULLIF(group_in_path(key), ''))"


def group_files(catalogue: Catalogue, group_pattern: str) -> None:
    """Give each file its group: the table's, else the pattern's, else the patient's, else its path.

    A patient whose other files have a group by the table or the pattern is in that group; of
    several, which is told, in the first.

    The path is the whole one below the folder, so that no other image has a say in it:
    `train/ring/1.png` and `test/ring/1.png` are two pictures that merely share a name.
    """

    def find_group(key: str) -> str | None:
        match = re.search(group_pattern, key) if group_pattern else None
        return match.group(1) if match else None

    catalogue.define("group_in_path", 1, find_group)
    catalogue.execute(f"UPDATE files SET named_group = {_NAMED}")
    catalogue.execute("DROP TABLE IF EXISTS patients")
    catalogue.execute(
        f"CREATE TABLE patients AS SELECT patient, MIN(named_group) AS first, "
        f"MAX(named_group) AS last FROM files "
        f"WHERE patient NOT NULL AND named_group NOT NULL AND {HAS_A_SAY} GROUP BY patient"
    )
    catalogue.execute("CREATE UNIQUE INDEX patients_by_name ON patients (patient)")
    catalogue.execute(
        "UPDATE files SET named_group = COALESCE("
        "(SELECT first FROM patients WHERE patients.patient = files.patient), patient) "
        "WHERE named_group IS NULL"
    )


def describe_grouping(catalogue: Catalogue) -> Grouping:
    """Say of how many images that are kept the group is known; `group_files` went before."""
    used = "FROM pictures JOIN files ON files.id = pictures.file WHERE is_kept"
    images = catalogue.value(f"SELECT COUNT(*) {used}")
    known = catalogue.value(f"SELECT COUNT(named_group) {used}")
    patients = catalogue.value(f"SELECT COUNT(*) {used} AND patient NOT NULL AND {_NAMED} IS NULL")
    warnings = []
    if not known:
        warnings.append(
            "No groups are known, so every image counts as its own group: slices of one patient "
            "may be in two splits, and then every number is too good. Give a table with a group "
            "column, or group_pattern"
        )
    elif known < images:
        alone = f"SELECT name {used} AND named_group IS NULL ORDER BY file, frame LIMIT {_SHOWN}"
        have = "has no group and counts" if images - known == 1 else "have no group and count"
        warnings.append(
            f"{count(images - known, 'image')} {have} as a group alone: "
            f"{', '.join(catalogue.values(alone))}"
        )
    if torn := catalogue.value("SELECT COUNT(*) FROM patients WHERE first <> last"):
        shown = catalogue.rows(
            "SELECT patient, first, last FROM patients WHERE first <> last ORDER BY patient "
            f"LIMIT {_SHOWN}"
        )
        warnings.append(
            f"The table or group_pattern puts {count(torn, 'patient')} of the DICOM files into "
            "several groups, so images of one person may be in two splits: "
            f"{'; '.join(f'{patient} ({first}, {last})' for patient, first, last in shown)}. "
            "Give each patient one group, unless a tool has given all the same PatientID"
        )
    return Grouping(known, images, patients, tuple(warnings))


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
    catalogue: Catalogue, seed: int, test_fraction: float, val_fraction: float
) -> None:
    """Give every group its split, one over all folders.

    The table decides first, then split folders, then `split_of`. In a folder with `train/` and
    `test/` but no `val/`, val is drawn from the groups in `train/`; once there is a `val/`, all
    of them are training groups. Nothing else that is added to a folder moves a group.

    Raises:
        UserError: If the table or the folders put one group into two splits.
    """

    def draw(group: str, *allowed: int) -> str:
        names = [split for split, is_allowed in zip(SPLITS, allowed, strict=True) if is_allowed]
        return split_of(group, seed, test_fraction, val_fraction, names)

    catalogue.define("draw_split", 4, draw)
    catalogue.execute("DROP TABLE IF EXISTS meaning")
    catalogue.execute("CREATE TABLE meaning (kind, folder_split, train, val, test)")
    catalogue.execute_many(
        "INSERT INTO meaning VALUES (?, ?, ?, ?, ?)", list(_meaning_of_folders(catalogue))
    )
    catalogue.execute("DROP TABLE IF EXISTS group_facts")
    catalogue.execute(
        f"""
        CREATE TABLE group_facts AS
        SELECT group_name AS name, COUNT(DISTINCT NULLIF(table_split, '')) AS from_table,
            MAX(table_split) AS table_split, COUNT(folder_split) AS in_folders,
            MIN(COALESCE(train, 1)) AS train, MIN(COALESCE(val, 1)) AS val,
            MIN(COALESCE(test, 1)) AS test
        FROM files LEFT JOIN meaning USING (kind, folder_split)
        WHERE {HAS_A_SAY} GROUP BY group_name
        """
    )
    _refuse(catalogue, "from_table > 1", "table_split", "the table puts", "correct the table")
    _refuse(
        catalogue,
        "NOT from_table AND train + val + test = 0",
        "folder_split",
        "the folders put",
        "move its images into one split folder, or name its split in a table (table_uri)",
    )
    catalogue.execute("DELETE FROM groups")
    catalogue.execute(
        "INSERT INTO groups (name, split) SELECT name, CASE WHEN from_table THEN table_split "
        "ELSE draw_split(name, train, val, test) END FROM group_facts ORDER BY name"
    )


def _meaning_of_folders(catalogue: Catalogue) -> Iterable[tuple[str | int, ...]]:
    for kind in catalogue.values("SELECT DISTINCT kind FROM files"):
        present = catalogue.values(
            "SELECT DISTINCT folder_split FROM files WHERE kind = ? AND folder_split NOT NULL",
            (kind,),
        )
        missing = set(SPLITS) - set(present)
        for folder in present:
            allowed = {folder} | (missing if folder == "train" else set())
            yield (kind, folder, *(int(split in allowed) for split in SPLITS))


def _refuse(catalogue: Catalogue, torn: str, column: str, who: str, advice: str) -> None:
    number = catalogue.value(f"SELECT COUNT(*) FROM group_facts WHERE {torn}")
    if not number:
        return
    shown = []
    for group in catalogue.values(
        f"SELECT name FROM group_facts WHERE {torn} ORDER BY name LIMIT {_SHOWN}"
    ):
        splits = catalogue.values(
            f"SELECT DISTINCT {column} FROM files WHERE group_name = ? AND {column} <> '' "
            "ORDER BY 1",
            (group,),
        )
        shown.append(f"{group} ({', '.join(splits)})")
    raise UserError(
        f"{who} {count(number, 'group')} into two splits: {'; '.join(shown)}; a group (patient) "
        f"must be in one, or every number is too good: {advice}"
    )


def require_every_split(
    kind: str, classes: Sequence[str], placed: Counter[tuple[str, str | None]]
) -> None:
    """Refuse a set with an empty split, or with a class that a split lacks.

    Args:
        kind: `images`, `labels` or `boxes`; unlabelled images need a train split only.
        classes: Every class that must be in each split; none: only emptiness counts.
        placed: How many images each split and class has.

    Raises:
        UserError: With the counts and the ways out.
    """
    counts = _sum_by(0, placed)
    wanted = ("train",) if kind == "images" else SPLITS
    missing = [f"{split} is empty" for split in wanted if not counts[split]]
    missing += [
        f"{split} has no {name}"
        for name in classes
        for split in wanted
        if counts[split] and not placed[split, name]
    ]
    if missing:
        raise UserError(
            f"{kind}: {'; '.join(missing[:6])} ({count(placed.total(), 'image')}: "
            f"{', '.join(f'{counts[split]} {split}' for split in SPLITS)}): add groups, raise "
            "test_fraction or val_fraction, choose another split_seed, or give the splits in a "
            "table"
        )


def require_enough(
    classes: Sequence[str], placed: Counter[tuple[str, str | None]], min_images_per_class: int
) -> None:
    """Refuse a class with too few images to say anything of it.

    Raises:
        UserError: With the counts.
    """
    counts = _sum_by(1, placed)
    few = [f"{name} has {counts[name]}" for name in classes if counts[name] < min_images_per_class]
    if few:
        raise UserError(
            f"every class needs at least {min_images_per_class} readable images, but "
            f"{', '.join(few)}: add images, or lower min_images_per_class"
        )


def _sum_by(place: int, placed: Counter[tuple[str, str | None]]) -> Counter[str | None]:
    sums = Counter[str | None]()
    for pair, images in placed.items():
        sums[pair[place]] += images
    return sums
