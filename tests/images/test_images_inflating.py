"""Counting what compressed bytes inflate to: right, and in time that grows with their length."""

from __future__ import annotations

import lzma
import zlib

import numpy as np
import pytest

from sightline.images.inflating import count_inflated

NOISE = np.random.default_rng(0).bytes(3_000_000)
ZEROS = bytes(30_000_000)
KINDS = {
    "zlib": (zlib.compress, zlib.decompressobj),
    "lzma": (lambda plain: lzma.compress(plain, preset=0), lzma.LZMADecompressor),
}


class Counting:
    """A decompressor that counts the bytes which it is given."""

    def __init__(self, stream):
        self._stream, self.given = stream, 0

    def decompress(self, part, most):
        self.given += len(part)
        return self._stream.decompress(part, most)

    def __getattr__(self, name):
        return getattr(self._stream, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plain", [b"", b"a", NOISE, ZEROS, NOISE + ZEROS, ZEROS[: 1 << 20]])
def test_all_that_comes_out_is_counted_however_it_is_cut(kind, plain):
    compress, start = KINDS[kind]
    packed = compress(plain)
    for parts in ([packed], [packed[:7], packed[7:9], packed[9:], b"behind the end"]):
        stream = start()
        assert count_inflated(stream, parts, 1 << 40) == len(plain)
        assert stream.eof
    stream = start()
    count_inflated(stream, [packed[:-1]], 1 << 40)
    assert not stream.eof


def test_a_bomb_is_counted_no_further_than_it_matters():
    packed = zlib.compress(ZEROS)
    assert 1000 < count_inflated(zlib.decompressobj(), [packed], 1000) <= 1000 + (1 << 20)


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_is_handed_over_once_or_twice(kind):
    # All of the rest for each megabyte that comes out would be 20 times the bytes.
    compress, start = KINDS[kind]
    packed = compress(10 * NOISE[:65536] + 10 * NOISE)
    stream = Counting(start())
    count_inflated(stream, [packed], 1 << 40)
    assert len(packed) <= stream.given <= 2 * len(packed)
