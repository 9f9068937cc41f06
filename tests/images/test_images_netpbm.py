"""PBM, PGM, PPM, PFM: one picture whose values are within the highest, or refused."""

from __future__ import annotations

import struct

import pytest

from sightline.images import ImageError, read_file


def grays_of(content):
    (image,) = read_file(content)
    assert (image.pixels == image.pixels[:, :, :1]).all()
    return image.pixels[:, :, 0].reshape(-1).tolist()


def test_values_are_scaled_by_the_highest():
    assert grays_of(b"P5 4 1 100\n" + bytes([0, 20, 50, 100])) == [0, 51, 128, 255]


@pytest.mark.parametrize(
    ("content", "found", "highest"),
    [
        (b"P5 4 1 100\n" + bytes([0, 20, 150, 100]), 150, 100),
        (b"P6 1 1 100\n" + bytes([0, 20, 101]), 101, 100),
        (b"P5 2 1 1000\n" + struct.pack(">2H", 1001, 5), 1001, 1000),
        (b"P6 1 1 1000\n" + struct.pack(">3H", 1000, 5, 65535), 65535, 1000),
    ],
)
def test_values_above_the_highest_are_refused_and_not_clipped(content, found, highest):
    with pytest.raises(ImageError, match=f"the value {found}, .* at most {highest}"):
        read_file(content)


def test_value_above_the_highest_in_words_is_refused():
    assert grays_of(b"P2 2 1 9\n3 9\n") == [85, 255]
    with pytest.raises(ImageError, match="too large"):
        read_file(b"P2 2 1 9\n3 10\n")


PICTURES = [
    b"P1 3 1\n1 0 1\n",
    b"P2 2 1 9\n3 9\n",
    b"P3 1 1 9\n3 9 1\n",
    b"P4 9 2\n\xff\x80\0\0",
    b"P5 2 1 255\n\1\2",
    b"P5 2 1 65535\n\1\2\3\4",
    b"P6 1 1 255\n\1\2\3",
    b"Pf 2 1 -1.0\n" + struct.pack("<2f", 1, 2),
]


@pytest.mark.parametrize("content", PICTURES, ids=lambda content: content[:2].decode())
def test_second_picture_behind_the_first_is_refused(content):
    assert read_file(content)[0].pixels.size
    assert read_file(content + b"\n")[0].pixels.size
    with pytest.raises(ImageError, match="several pictures: save each as one file"):
        read_file(content + content)


def test_rest_behind_the_picture_is_refused():
    with pytest.raises(ImageError, match="2 bytes behind the picture"):
        read_file(b"P5 2 1 255\n\1\2\3\4")


def test_picture_cut_short_is_refused():
    with pytest.raises(ImageError, match="cut short"):
        read_file(b"P5 2 1 100\n\1")


def test_kinds_that_no_standard_knows_are_refused():
    with pytest.raises(ImageError, match="unknown kind"):
        read_file(b"PyP 2 1 255\n\1\2")
