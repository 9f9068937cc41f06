"""The table: whatever a spreadsheet saves, matched to images by name."""

from __future__ import annotations

import pytest

from sightline.errors import UserError
from sightline.prepare.catalogue import ListedFile
from sightline.prepare.table import match_rows, read_table


def table(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def image(key, kind="labels", own_name=""):
    return ListedFile(kind, key, own_name=own_name or key)


@pytest.fixture
def read(tmp_path, catalogue):
    """Return a function that reads a table and returns its rows."""

    def read_content(content):
        read_table(table(tmp_path, content), catalogue)
        return list(catalogue.rows("SELECT * FROM table_rows ORDER BY line"))

    return read_content


@pytest.fixture
def match(read, catalogue):
    """Return a function that matches a table's content to images, and returns their groups."""

    def match_all(content, images):
        read(content)
        catalogue.add_files(images)
        warnings = match_rows(catalogue)
        found = "SELECT kind, key, table_group FROM files WHERE table_group NOT NULL"
        return {(kind, key): group for kind, key, group in catalogue.rows(found)}, warnings

    return match_all


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_usual_separator_and_a_byte_order_mark_are_read(read, separator):
    lines = ["Name,GROUP,split", "a.png,p1,valid", "b.png,p2,"]
    content = "\r\n".join(lines).replace(",", separator).encode("utf-8-sig")
    assert read(content) == [(2, "a.png", "p1", "val"), (3, "b.png", "p2", "")]


def test_quoted_name_may_hold_the_separator(read):
    assert read('name,group\n"a,b.png",p1\n')[0][1] == "a,b.png"


@pytest.mark.parametrize("content", ["", "file,patient\na,b\n", "name\na.png\n", "group,split\n"])
def test_missing_columns_are_named(read, content):
    with pytest.raises(UserError, match="needs the columns name and group"):
        read(content)


def test_every_wrong_line_is_named_at_once(read):
    content = "name,split\na.png,trian\n,test\nb.png,test,more\n"
    with pytest.raises(UserError) as caught:
        read(content)
    for part in ("3 wrong lines", "line 2: split 'trian'", "line 3 has no name", "line 4 has more"):
        assert part in str(caught.value)


def test_missing_table_and_binary_file_are_user_errors(tmp_path, read, catalogue):
    with pytest.raises(UserError, match="nothing is stored at"):
        read_table(str(tmp_path / "none.csv"), catalogue)
    with pytest.raises(UserError, match="save it as CSV UTF-8"):
        read(b"\xff\xfe\x00n")


def test_field_that_is_far_too_long_is_a_user_error(read):
    with pytest.raises(UserError, match="is no CSV file: field larger than field limit"):
        read(f"name,group\n{'a' * 200_000},p1\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('name,group\na,1\n"b,2\nc,3\n', "look at its quotes"),
        ('name,group\na,1\n"b,2\nc",3\nd,4\n', "line 4: a name with a line break in it"),
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_rows(read, content, reason):
    with pytest.raises(UserError, match=reason):
        read(content)


def test_the_line_that_excel_writes_first_is_no_header(read):
    assert read("sep=;\nname;group\na;1\n") == [(3, "a", "1", "")]


@pytest.mark.parametrize("name", ["ring/p1.png", "ring/p1", "p1.png", "p1", "./ring/p1.png"])
def test_name_matches_as_path_or_file_name_with_or_without_suffix(match, name):
    images = [image("ring/p1.png"), image("ring/p2.png")]
    assert match(f"name,group\n{name},g\n", images) == ({("labels", "ring/p1.png"): "g"}, [])


def test_name_finds_its_image_in_every_folder(match):
    images = [image("ring/p1.png"), image("p1.png", "images"), image("images/p1.png", "boxes")]
    matched, _ = match("name,group\np1.png,g\n", images)
    assert set(matched) == {
        ("labels", "ring/p1.png"),
        ("images", "p1.png"),
        *{("boxes", "images/p1.png")},
    }


def test_name_that_fits_two_images_of_a_folder_is_refused(match):
    with pytest.raises(UserError, match=r"line 2: p1.png \(a/p1.png, b/p1.png\).*write the path"):
        match("name,group\np1.png,g\n", [image("a/p1.png"), image("b/p1.png")])


def test_path_in_the_table_settles_which_of_two_is_meant(match):
    images = [image("a/p1.png"), image("b/p1.png"), image("p1.png")]
    matched, _ = match("name,group\na/p1.png,g\nb/p1,h\np1.png,i\n", images)
    assert {key: group for (_, key), group in matched.items()} == {
        "a/p1.png": "g",
        "b/p1.png": "h",
        "p1.png": "i",
    }


def test_row_without_an_image_is_told(match):
    _, warnings = match("name,group\ngone.png,g\n", [image("a.png")])
    assert warnings == ["1 row of the table has no image: gone.png"]


def test_two_rows_that_agree_are_one(match):
    assert len(match("name,group\na.png,g\na,g\n", [image("a.png")])[0]) == 1


def test_two_rows_that_disagree_are_refused(match):
    with pytest.raises(UserError, match="two things of 1 image: lines 2 and 3: a"):
        match("name,group\na.png,g\na,h\n", [image("a.png")])
