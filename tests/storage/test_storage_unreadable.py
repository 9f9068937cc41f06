"""One object that cannot be read is told apart from a store that cannot be used."""

from __future__ import annotations

import pytest

from sightline.errors import UserError
from sightline.storage import UnreadableError
from sightline.storage.local import LocalStorage
from sightline.storage.s3_errors import Refusal, Target, explain_refusal

TARGET = Target("s3://bucket/a.png", "bucket", "http://127.0.0.1:9000", "KEY")


@pytest.mark.parametrize(
    ("code", "told"),
    [("AccessDenied", "no permission to read"), ("InvalidObjectState", "is archived")],
)
def test_object_that_may_not_be_read_or_is_archived_is_unreadable(code, told):
    error = explain_refusal(Refusal(403, code, "", {}), TARGET, "read")
    assert isinstance(error, UnreadableError)
    assert told in str(error)


@pytest.mark.parametrize(
    ("status", "code", "access"),
    [(403, "AccessDenied", "write"), (403, "SignatureDoesNotMatch", "read"), (400, "", "read")],
)
def test_refusal_that_concerns_more_than_one_object_is_not(status, code, access):
    error = explain_refusal(Refusal(status, code, "", {}), TARGET, access)
    assert isinstance(error, UserError)
    assert not isinstance(error, UnreadableError)


def test_listing_that_is_not_found_is_told_as_a_wrong_address_and_not_as_an_absent_object():
    error = explain_refusal(Refusal(404, "", "", {}), TARGET, "list")
    assert "no S3 server (404): mend the address or s3_endpoint_url" in str(error)
    assert "there is no bucket" in str(
        explain_refusal(Refusal(404, "NoSuchBucket", "", {}), TARGET, "list")
    )


def test_file_that_its_folder_does_not_give_is_unreadable(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(UnreadableError, match=r"cannot read .*loop.png"):
        LocalStorage(tmp_path).read_bytes("loop.png")
