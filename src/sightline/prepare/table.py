"""The user's table: which image belongs to which group (patient), and to which split."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, TextIO

from sightline.errors import UserError
from sightline.prepare.catalogue import Catalogue
from sightline.prepare.folders import SPLIT_NAMES
from sightline.prepare.nameless import without_suffix
from sightline.storage import open_storage
from sightline.storage.scratch import ScratchFolder
from sightline.telemetry import count

_SHOWN_PROBLEMS = 10
_COLUMNS = ("name", "group", "split")


def read_table(uri: str, catalogue: Catalogue) -> None:
    """Add the rows of the CSV file; commas, semicolons and tabs separate.

    Raises:
        UserError: If it is no such table; every wrong line is named.
    """
    folder, slash, name = uri.rpartition("/")
    storage = open_storage(folder or ("/" if slash else "."))
    with ScratchFolder("table") as scratch:
        path = scratch / "table.csv"
        storage.download(name, path)
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                _add_rows(uri, file, catalogue)
        except UnicodeDecodeError:
            raise UserError(f"table_uri {uri} must be UTF-8 text: save it as CSV UTF-8") from None
        except csv.Error as error:
            # "unexpected end of data" is a quote that nothing closes.
            raise UserError(
                f"table_uri {uri} is no CSV file: {error}; look at its quotes"
            ) from None


def _add_rows(uri: str, file: TextIO, catalogue: Catalogue) -> None:
    header = file.readline()
    lines_before = 0
    if header.lower().startswith("sep="):  # Excel's own line
        lines_before, header = 1, file.readline()
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(itertools.chain([header], file), delimiter=separator, strict=True)
    fields = {(field or "").strip().lower(): field for field in reader.fieldnames or ()}
    if "name" not in fields or not ({"group", "split"} & fields.keys()):
        raise UserError(
            f"table_uri {uri} needs the columns name and group (or split, or both), got "
            f"{', '.join(fields) or 'nothing'}"
        )
    problems: list[str] = []
    wrong = 0

    def read() -> Iterator[tuple[int, str, str, str]]:
        nonlocal wrong
        for values in reader:
            found, row = _read_row(values, fields, lines_before + reader.line_num)
            wrong += len(found)
            problems.extend(found[: _SHOWN_PROBLEMS - len(problems)])
            yield row

    catalogue.execute_many("INSERT INTO table_rows VALUES (?, ?, ?, ?)", read())
    if wrong:
        raise UserError(f"table_uri {uri} has {count(wrong, 'wrong line')}: {'; '.join(problems)}")


def _read_row(
    values: dict[str | Any, Any], fields: dict[str, str], line: int
) -> tuple[list[str], tuple[int, str, str, str]]:
    if None in values:
        return [f"line {line} has more columns than the header"], (line, "", "", "")
    texts = {c: (values.get(fields.get(c, ""), "") or "").strip() for c in _COLUMNS}
    split = SPLIT_NAMES.get(texts["split"].lower(), "")
    problems = []
    if texts["split"] and not split:
        problems.append(f"line {line}: split {texts['split']!r} is none of train, val, test")
    if "\n" in texts["name"] or "\r" in texts["name"]:
        problems.append(f"line {line}: a name with a line break in it: a quote before it is open")
    if not texts["name"]:
        problems.append(f"line {line} has no name")
    name = texts["name"].replace("\\", "/").removeprefix("./")
    return problems, (line, name, texts["group"], split)


def match_rows(catalogue: Catalogue) -> list[str]:
    """Give each file its row of the table: by path, or by file name with or without suffix.

    Returns:
        What a user must know: rows without an image.

    Raises:
        UserError: If a row fits several images of one folder, or two rows fit one and disagree.
    """
    catalogue.execute("CREATE INDEX table_names ON table_rows (name)")
    catalogue.define("bare_name", 1, lambda key: PurePosixPath(key).name)
    catalogue.define("no_suffix", 1, without_suffix)
    catalogue.execute(
        """
        CREATE TABLE matches AS
        WITH found AS (SELECT * FROM files WHERE rejected IS NULL)
        SELECT line, file, kind, MAX(is_exact) AS is_exact FROM (
            SELECT id AS file, kind, key AS name, TRUE AS is_exact FROM found
            UNION ALL SELECT id, kind, own_name, TRUE FROM found
            UNION ALL SELECT id, kind, bare_name(key), FALSE FROM found
            UNION ALL SELECT id, kind, no_suffix(key), FALSE FROM found
            UNION ALL SELECT id, kind, no_suffix(own_name), FALSE FROM found
            UNION ALL SELECT id, kind, no_suffix(bare_name(key)), FALSE FROM found
        ) JOIN table_rows USING (name)
        GROUP BY line, file
        """
    )
    catalogue.execute("CREATE INDEX matches_of_rows ON matches (line, kind)")
    _refuse_ambiguous(catalogue)
    # A path wins over the file name.
    catalogue.execute(
        "DELETE FROM matches WHERE NOT is_exact AND EXISTS (SELECT 1 FROM matches AS other "
        "WHERE other.line = matches.line AND other.kind = matches.kind AND other.is_exact)"
    )
    catalogue.execute("CREATE INDEX matches_of_files ON matches (file, line)")
    _refuse_contradictions(catalogue)
    catalogue.execute(
        "UPDATE files SET table_group = group_name_of_row, table_split = split FROM ("
        "SELECT file, group_name AS group_name_of_row, split, MIN(line) FROM matches "
        "JOIN table_rows USING (line) GROUP BY file) AS found WHERE found.file = files.id"
    )
    without = "FROM table_rows WHERE line NOT IN (SELECT line FROM matches)"
    number = catalogue.value(f"SELECT COUNT(*) {without}")
    if not number:
        return []
    shown = ", ".join(catalogue.values(f"SELECT name {without} ORDER BY line LIMIT 5"))
    have = "row of the table has" if number == 1 else "rows of the table have"
    return [f"{number} {have} no image: {shown}"]


def _refuse_ambiguous(catalogue: Catalogue) -> None:
    ambiguous = list(
        catalogue.rows(
            "SELECT line, name, kind, SUM(is_exact), COUNT(*) OVER () FROM matches "
            "JOIN table_rows USING (line) GROUP BY line, kind "
            "HAVING SUM(is_exact) > 1 OR (SUM(is_exact) = 0 AND COUNT(*) > 1) "
            "ORDER BY line LIMIT 5"
        )
    )
    if not ambiguous:
        return
    shown = []
    for line, name, kind, exact, _ in ambiguous:
        keys = catalogue.values(
            "SELECT key FROM matches JOIN files ON files.id = file "
            "WHERE line = ? AND matches.kind = ? AND is_exact = ? ORDER BY file LIMIT 3",
            (line, kind, exact > 0),
        )
        shown.append(f"line {line}: {name} ({', '.join(keys)})")
    number = ambiguous[0][-1]
    fit = "fits" if number == 1 else "fit"
    raise UserError(
        f"{count(number, 'name')} of the table {fit} several images of one folder: "
        f"{'; '.join(shown)}: write the path below the folder"
    )


def _refuse_contradictions(catalogue: Catalogue) -> None:
    torn = list(
        catalogue.rows(
            """
            SELECT first.line, other.line, other.name, COUNT(*) OVER ()
            FROM (SELECT file, MIN(line) AS line FROM matches GROUP BY file) AS earliest
            JOIN table_rows AS first ON first.line = earliest.line
            JOIN matches USING (file)
            JOIN table_rows AS other ON other.line = matches.line
            WHERE (first.group_name, first.split) <> (other.group_name, other.split)
            ORDER BY other.line LIMIT 5
            """
        )
    )
    if torn:
        shown = "; ".join(f"lines {first} and {line}: {name}" for first, line, name, _ in torn)
        raise UserError(f"the table says two things of {count(torn[0][-1], 'image')}: {shown}")
