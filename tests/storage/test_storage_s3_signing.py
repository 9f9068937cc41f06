"""Signatures: those of the vendor's own example, and those that botocore gives."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from sightline.storage.s3_signing import GetSigner, canonical_query, host_header

KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def test_signature_of_the_documentation_s_example():
    # "Example: GET Object" of docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    sent = GetSigner("us-east-1").sign(
        "examplebucket.s3.amazonaws.com",
        "/test.txt",
        {"Range": "bytes=0-9"},
        ReadOnlyCredentials(KEY_ID, SECRET, None),
        datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert sent["Authorization"].endswith(
        f"Credential={KEY_ID}/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_signature_of_the_documentation_s_listing():
    # "Example: GET Bucket (List Objects)" of the same page.
    sent = GetSigner("us-east-1").sign(
        "examplebucket.s3.amazonaws.com",
        "/",
        {},
        ReadOnlyCredentials(KEY_ID, SECRET, None),
        datetime(2013, 5, 24, tzinfo=UTC),
        canonical_query({"prefix": "J", "max-keys": "2"}),
    )
    assert sent["Authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9000", "http://S3.Example:80", "http://[::1]:9"]
)
@pytest.mark.parametrize("token", [None, "a/token+with=signs"])
@pytest.mark.parametrize("key", ["a b/ü+&=%.png", "x//y~z", "plain.tar"])
def test_signature_is_that_of_botocore(endpoint, token, key):
    credentials = ReadOnlyCredentials(KEY_ID, SECRET, token)
    headers = {"Range": "bytes=7-", "x-amz-checksum-mode": "ENABLED", "If-Match": ' "an etag" '}
    path = "/bucket/" + quote(key, safe="/~")
    signer = GetSigner("eu-central-1")
    for now in (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)):
        sent = signer.sign(host_header(endpoint), path, headers, credentials, now)
        assert sent["Authorization"].endswith(theirs(endpoint + path, headers, credentials, sent))
        assert sent.get("x-amz-security-token") == token


def test_signature_of_a_query_is_that_of_botocore():
    credentials = ReadOnlyCredentials(KEY_ID, SECRET, None)
    query = canonical_query({"prefix": "a b/ü+&=~", "list-type": "2", "continuation-token": "x/=="})
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    sent = GetSigner("eu-central-1").sign("s3.example", "/bucket", {}, credentials, now, query)
    url = f"http://s3.example/bucket?{query}"
    assert sent["Authorization"].endswith(theirs(url, {}, credentials, sent))


def theirs(url, headers, credentials, sent):
    request = AWSRequest("GET", url, headers=dict(headers))
    request.context["timestamp"] = sent["x-amz-date"]
    auth = S3SigV4Auth(credentials, "s3", "eu-central-1")
    auth._modify_request_before_signing(request)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return f"Signature={auth.signature(text, request)}"


def test_other_credentials_have_another_key():
    signer, now = GetSigner("us-east-1"), datetime(2026, 1, 2, tzinfo=UTC)

    def signature(secret):
        by = ReadOnlyCredentials(KEY_ID, secret, None)
        return signer.sign("host", "/b/k", {}, by, now)["Authorization"]

    assert signature("one") != signature("two")
    assert signature("one") == signature("one")
