"""Pages of a listing: as the vendor documents them, as servers vary, and broken off."""

from __future__ import annotations

import pytest

from sightline.storage.base import Entry
from sightline.storage.retries import PassingError
from sightline.storage.s3_listing import page_query, parse_page

# After the sample responses of the page on ListObjectsV2.
PAGE = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Name>bucket</Name>
  <Prefix/>
  <NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>
  <KeyCount>2</KeyCount>
  <MaxKeys>2</MaxKeys>
  <EncodingType>url</EncodingType>
  <IsTruncated>true</IsTruncated>
  <Contents>
    <Key>a%20b/%C3%BC%2B%01.jpg</Key>
    <LastModified>2009-10-12T17:50:30.000Z</LastModified>
    <ETag>"fba9dede5f27731c9771645a39863328"</ETag>
    <Size>434234</Size>
    <StorageClass>STANDARD</StorageClass>
  </Contents>
  <Contents>
    <Key>happy+face.jpg</Key>
    <LastModified>1970-01-01T00:00:01Z</LastModified>
    <Size>0</Size>
  </Contents>
</ListBucketResult>"""


def test_page_is_read():
    page = parse_page(PAGE)
    # 1255369830 is 2009-10-12 17:50:30 UTC.
    assert page.entries == [
        Entry("a b/ü+\x01.jpg", 434234, 1255369830.0),
        Entry("happy face.jpg", 0, 1.0),
    ]
    assert page.next_token == "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM="


def test_keys_of_a_server_that_does_not_encode_are_taken_as_they_are():
    page = parse_page(PAGE.replace(b"<EncodingType>url</EncodingType>", b""))
    assert [entry.key for entry in page.entries] == ["a%20b/%C3%BC%2B%01.jpg", "happy+face.jpg"]


def test_page_without_a_namespace_and_time_without_a_zone():
    plain = PAGE.replace(b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', b"")
    assert parse_page(plain.replace(b"01Z<", b"01<")) == parse_page(PAGE)


def test_last_page_has_no_next():
    page = parse_page(PAGE.replace(b"<IsTruncated>true", b"<IsTruncated>false"))
    assert page.next_token == ""
    assert parse_page(b"<ListBucketResult/>") == ([], "")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (PAGE[:-30], "no XML"),
        (b"", "no XML"),
        (b"<Error><Code>InternalError</Code></Error>", "a document Error"),
        (PAGE.replace(b"<Size>0</Size>", b""), "lacks what it must tell"),
        (PAGE.replace(b"<Size>0<", b"<Size>none<"), "lacks what it must tell"),
        (PAGE.replace(b"1970-01-01T", b"yesterday"), "lacks what it must tell"),
        (PAGE.replace(b"1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=", b""), "without a token"),
    ],
)
def test_broken_page_is_worth_another_try(document, reason):
    with pytest.raises(PassingError, match=reason):
        parse_page(document)


def test_keys_are_told_without_what_they_all_begin_with():
    page = parse_page(PAGE.replace(b"<Key>", b"<Key>in/%20/"), below="in/ /")
    assert page == parse_page(PAGE)


def test_page_that_would_grow_without_bound_is_refused():
    # A billion laughs: ten levels of ten.
    levels = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 11))
    laughs = (
        f"<!DOCTYPE x [<!ENTITY l0 'laugh'>{levels}]><ListBucketResult>&l10;</ListBucketResult>"
    )
    with pytest.raises(PassingError, match="no XML"):
        parse_page(laughs.encode())


def test_first_page_is_asked_for_without_a_token():
    assert "continuation-token" not in page_query("in/", "")
    assert page_query("in/", "t")["continuation-token"] == "t"
