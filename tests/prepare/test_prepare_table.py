"""The table: whatever a spreadsheet saves, matched to images by name."""

from __future__ import annotations

import pytest

from sightline.config import UserError
from sightline.prepare.folders import FoundImage
from sightline.prepare.table import Row, match_rows, read_table


def table(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def image(key, kind="labels", own_name=""):
    return FoundImage(kind, key, own_name or key)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_usual_separator_and_a_byte_order_mark_are_read(tmp_path, separator):
    lines = ["Name,GROUP,split", "a.png,p1,valid", "b.png,p2,"]
    content = "\r\n".join(lines).replace(",", separator).encode("utf-8-sig")
    assert read_table(table(tmp_path, content)) == [
        Row(2, "a.png", "p1", "val"),
        Row(3, "b.png", "p2", ""),
    ]


def test_quoted_name_may_hold_the_separator(tmp_path):
    assert read_table(table(tmp_path, 'name,group\n"a,b.png",p1\n'))[0].name == "a,b.png"


@pytest.mark.parametrize("content", ["", "file,patient\na,b\n", "name\na.png\n", "group,split\n"])
def test_missing_columns_are_named(tmp_path, content):
    with pytest.raises(UserError, match="needs the columns name and group"):
        read_table(table(tmp_path, content))


def test_every_wrong_line_is_named_at_once(tmp_path):
    content = "name,split\na.png,trian\n,test\nb.png,test,more\n"
    with pytest.raises(UserError) as caught:
        read_table(table(tmp_path, content))
    for part in ("3 wrong lines", "line 2: split 'trian'", "line 3 has no name", "line 4 has more"):
        assert part in str(caught.value)


def test_missing_table_and_binary_file_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="nothing is stored at"):
        read_table(str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match="save it as CSV UTF-8"):
        read_table(table(tmp_path, b"\xff\xfe\x00n"))


@pytest.mark.parametrize("name", ["ring/p1.png", "ring/p1", "p1.png", "p1", "./ring/p1.png"])
def test_name_matches_as_path_or_file_name_with_or_without_suffix(name):
    row = Row(2, name, "g", "")
    matched, warnings = match_rows([row], [image("ring/p1.png"), image("ring/p2.png")])
    assert matched == {("labels", "ring/p1.png"): row}
    assert warnings == []


def test_name_finds_its_image_in_every_folder():
    row = Row(2, "p1.png", "g", "")
    images = [image("ring/p1.png"), image("p1.png", "images"), image("images/p1.png", "boxes")]
    matched, _ = match_rows([row], images)
    assert set(matched) == {
        ("labels", "ring/p1.png"),
        ("images", "p1.png"),
        *{("boxes", "images/p1.png")},
    }


def test_name_that_fits_two_images_of_a_folder_is_refused():
    with pytest.raises(UserError, match=r"line 2: p1.png \(a/p1.png, b/p1.png\).*write the path"):
        match_rows([Row(2, "p1.png", "g", "")], [image("a/p1.png"), image("b/p1.png")])


def test_path_in_the_table_settles_which_of_two_is_meant():
    images = [image("a/p1.png"), image("b/p1.png")]
    rows = [Row(2, "a/p1.png", "g", ""), Row(3, "b/p1", "h", "")]
    matched, _ = match_rows(rows, images)
    assert {key: row.group for (_, key), row in matched.items()} == {
        "a/p1.png": "g",
        "b/p1.png": "h",
    }


def test_row_without_an_image_is_told():
    _, warnings = match_rows([Row(2, "gone.png", "g", "")], [image("a.png")])
    assert warnings == ["1 row of the table has no image: gone.png"]


def test_two_rows_that_disagree_are_refused_and_two_that_agree_are_not():
    rows = [Row(2, "a.png", "g", ""), Row(3, "a", "g", "")]
    assert len(match_rows(rows, [image("a.png")])[0]) == 1
    with pytest.raises(UserError, match="two things of 1 image: lines 2 and 3: a"):
        match_rows([rows[0], Row(3, "a", "h", "")], [image("a.png")])
