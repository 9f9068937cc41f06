"""What a user must mend is said in one line, after one request, and never with the secret."""

from __future__ import annotations

import datetime
import os
import pickle
import re
import socket

import botocore.auth
import pytest
from fault_proxy import Answer

from sightline.__main__ import main
from sightline.errors import SettingsError, UserError
from sightline.storage import NotFoundError, fetch_artifacts, open_storage, require_new, s3
from sightline.storage.s3 import S3Storage
from sightline.storage.settings import StorageConfig

CANARY = "CANARYsecretCANARYsecretCANARY"
KEY_ID = "AKIATESTINGONLY9876"
REAL_SERVER = bool(os.environ.get("TESTBED_S3_ENDPOINT"))
needs_signatures = pytest.mark.skipif(not REAL_SERVER, reason="moto checks no signatures")


@pytest.fixture
def all_calls(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"1")
    return {
        "read": lambda storage: storage.read_bytes("k"),
        "range": lambda storage: storage.read_bytes("k", 5, 5),
        "write": lambda storage: storage.write_bytes("k", b"1"),
        "upload": lambda storage: storage.upload(source, "k"),
        "download": lambda storage: storage.download("k", tmp_path / "k"),
        "list": lambda storage: list(storage.list()),
        "exists": lambda storage: storage.exists("k"),
        "delete": lambda storage: storage.delete("k"),
        "unfinished": lambda storage: list(storage.list_unfinished()),
        "writable": lambda storage: storage.require_writable(),
    }


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def require_one_clear_line(message, *parts):
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert CANARY not in message
    assert KEY_ID not in message


REFUSALS = {
    "unknown key id": (
        Answer(403, "InvalidAccessKeyId", more=f"<AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId>"),
        ["does not accept the credentials", "ending in '9876'", "check AWS_ACCESS_KEY_ID"],
    ),
    "wrong secret": (
        Answer(403, "SignatureDoesNotMatch", f"your secret {CANARY}"),
        ["does not accept the credentials", "ending in '9876'", "AWS_SECRET_ACCESS_KEY"],
    ),
    "unauthorized": (Answer(401, "Unauthorized"), ["does not accept the credentials"]),
    "expired": (Answer(400, "ExpiredToken"), ["have expired", "get new ones"]),
    "clock": (
        Answer(
            403,
            "RequestTimeTooSkewed",
            more="<RequestTime>20260101T000000Z</RequestTime>"
            "<ServerTime>2026-01-02T00:00:00Z</ServerTime>",
        ),
        ["2026-01-02T00:00:00Z", "20260101T000000Z", "set this machine's clock"],
    ),
    "denied": (
        Answer(403, "AccessDenied"),
        ["no permission to", "ending in '9876'", "bucket's policy"],
    ),
    "no bucket": (Answer(404, "NoSuchBucket"), ["there is no bucket", "create it"]),
    "wrong region": (
        Answer(
            400, "AuthorizationHeaderMalformed", "the region 'x' is wrong; expecting 'eu-north-1'"
        ),
        ["set s3_region to eu-north-1"],
    ),
    "not served": (Answer(501, "NotImplemented", "a header"), ["501 NotImplemented: a header"]),
    "bad request": (Answer(400, "InvalidRequest", "why\nnot"), ["InvalidRequest: why not"]),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_is_one_clear_line_after_one_request_for_every_call(
    name, faults, open_faulty, all_calls, monkeypatch, capfd
):
    answer, parts = REFUSALS[name]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", CANARY)
    storage = open_faulty()
    for call in all_calls.values():
        faults.restart()
        faults.fail(answer)
        require_one_clear_line(message_of(lambda call=call: call(storage)), *parts)
        assert len(faults.requests) == 1
    assert capfd.readouterr() == ("", "")


def test_bucket_of_another_region_is_told_with_its_region(faults, open_faulty, all_calls):
    # boto3 itself asks once more, at the region that the answer names.
    faults.fail(Answer(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-north-1"}))
    for call in all_calls.values():
        message = message_of(lambda call=call: call(open_faulty()))
        require_one_clear_line(message, "set s3_region to eu-north-1")


@needs_signatures
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_told_by_the_real_server(variable, s3_bucket, all_calls, monkeypatch):
    monkeypatch.setenv(variable, CANARY)
    ending = os.environ["AWS_ACCESS_KEY_ID"][-4:]
    storage = open_storage(s3_bucket)
    for call in all_calls.values():
        message = message_of(lambda call=call: call(storage))
        require_one_clear_line(message, "does not accept the credentials", f"ending in '{ending}'")


@needs_signatures
def test_clock_that_is_a_day_off_is_told_by_the_real_server(s3_bucket, all_calls, monkeypatch):
    storage = open_storage(s3_bucket)

    class Yesterday(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.now(tz) - datetime.timedelta(days=1)

    def yesterday(remove_tzinfo=True):
        now = Yesterday.now(datetime.UTC)
        return now.replace(tzinfo=None) if remove_tzinfo else now

    with monkeypatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", yesterday)
        patch.setattr(s3, "datetime", Yesterday)
        messages = [message_of(lambda call=call: call(storage)) for call in all_calls.values()]
    for message in messages:
        require_one_clear_line(message, "RequestTimeTooSkewed", "set this machine's clock")
        assert re.search(r"the server says .*20\d\d.*, this machine signed at 20\d\d", message)


def test_missing_bucket_is_told_for_every_call(s3_bucket, all_calls):
    storage = open_storage(s3_bucket + "-of-nobody/prefix")
    for call in all_calls.values():
        message = message_of(lambda call=call: call(storage))
        require_one_clear_line(message, f"no bucket {storage.bucket} at http://", "create it")


def test_missing_prefix_is_empty_and_a_missing_result_is_named(s3_bucket):
    storage = open_storage(s3_bucket + "/nothing/here")
    assert list(storage.list()) == []
    assert not storage.exists("k")
    with pytest.raises(NotFoundError, match=f"nothing is stored at {s3_bucket}/nothing/here/k"):
        storage.read_bytes("k")
    with pytest.raises(NotFoundError, match=f"no finished result under {s3_bucket}/nothing/here"):
        fetch_artifacts(s3_bucket + "/nothing/here")


def test_read_only_target_is_told_before_the_work(faults, s3_bucket):
    faults.fail(Answer(403, "AccessDenied"), matches=lambda method, _path: method != "GET")
    with pytest.raises(UserError, match=rf"no permission to write {s3_bucket}/out/.*AccessDenied"):
        require_new(s3_bucket + "/out")
    assert [method for method, _ in faults.requests] == ["GET", "PUT"]


def test_role_that_may_not_delete_can_still_publish(faults, s3_bucket):
    faults.fail(Answer(403, "AccessDenied"), matches=lambda method, _path: method == "DELETE")
    storage = open_storage(s3_bucket + "/out")
    storage.require_writable()
    assert storage.write_if_unchanged("a", b"1", expected=None)
    assert [entry.key for entry in storage.list()] == ["a"]


def test_command_ends_with_code_2_and_one_line_without_the_secret(
    faults, s3_bucket, monkeypatch, capfd
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    faults.fail(Answer(403, "SignatureDoesNotMatch"))
    addresses = ["--encoder-uri", f"{s3_bucket}/encoder", "--out-uri", f"{s3_bucket}/out"]
    data = ["--dataset-uri", f"{s3_bucket}/data"]
    assert main(["evaluate", *addresses, *data]) == 2
    out, err = capfd.readouterr()
    assert len(err.splitlines()) == 1
    require_one_clear_line(err.strip(), "does not accept the credentials")
    assert CANARY not in out
    assert len(faults.requests) == 1


@pytest.mark.parametrize(
    "variables",
    [{}, {"AWS_ACCESS_KEY_ID": KEY_ID}, {"AWS_PROFILE": "unknown-profile"}],
    ids=["none", "half", "unknown profile"],
)
def test_missing_credentials_are_told(variables, s3_bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    message = message_of(lambda: open_storage(s3_bucket))
    require_one_clear_line(message, "no credentials for S3", "AWS_ACCESS_KEY_ID")


def test_host_that_does_not_exist_is_told(s3_bucket, all_calls, monkeypatch):
    def find_nothing(*_arguments, **_named):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    storage = S3Storage(
        s3_bucket, StorageConfig(s3_endpoint_url="http://no-such-host.invalid:9000")
    )
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", find_nothing)
        for call in all_calls.values():
            message = message_of(lambda call=call: call(storage))
            require_one_clear_line(message, "no host of http://no-such-host.invalid:9000")


def test_server_without_tls_at_an_https_address_is_told(faults, s3_bucket, all_calls):
    url = faults.url.replace("http://", "https://")
    storage = S3Storage(s3_bucket, StorageConfig(s3_endpoint_url=url))
    for call in all_calls.values():
        message = message_of(lambda call=call: call(storage))
        require_one_clear_line(message, "does not speak TLS: give it with http://")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        (f"s3://{KEY_ID}:{CANARY}@bucket/prefix", "an S3 address holds no credentials"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://buc ket/prefix", "names no bucket"),
        ("s3://bucket/a/../b", r"holds . or .."),
    ],
)
def test_malformed_address_is_told(uri, told):
    require_one_clear_line(message_of(lambda: open_storage(uri)), told)


def test_credentials_in_the_endpoint_are_refused_and_not_repeated():
    url = f"http://{KEY_ID}:{CANARY}@host:9000"
    with pytest.raises(SettingsError, match="s3_endpoint_url: an address holds no cred") as caught:
        StorageConfig.from_values({"s3_endpoint_url": url})
    require_one_clear_line(str(caught.value))


@pytest.mark.parametrize("url", ["http://[x", "http://:9000", "http://host:99999", "host:9000"])
def test_endpoint_that_is_no_address_is_refused_with_an_example(url):
    with pytest.raises(SettingsError) as caught:
        StorageConfig.from_values({"s3_endpoint_url": url})
    told = f"s3_endpoint_url: needs an address such as http://minio:9000, got {url!r}"
    require_one_clear_line(str(caught.value), told)


def test_secret_is_in_no_pickle_and_no_text_of_a_storage(s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    storage = open_storage(s3_bucket)
    assert CANARY.encode() not in pickle.dumps(storage)
    assert CANARY not in repr(storage) + repr(vars(storage))


@pytest.mark.parametrize(
    "address", [f"http://user:{CANARY}@127.0.0.1:9", f"http://user:{CANARY}@[bad:1", f"{CANARY}@h"]
)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_an_endpoint_with_credentials_is_refused_without_showing_them(
    address, variable, s3_bucket, monkeypatch
):
    monkeypatch.delenv("SIGHTLINE_S3_ENDPOINT_URL", raising=False)
    monkeypatch.setenv(variable, address)
    message = message_of(lambda: open_storage(s3_bucket))
    require_one_clear_line(message, "the address of the S3 server")


@pytest.mark.parametrize("scheme", ["https", "s3a", "S3"])
def test_an_address_of_another_kind_is_refused_without_showing_it(scheme):
    message = message_of(lambda: open_storage(f"{scheme}://{KEY_ID}:{CANARY}@host/bucket"))
    require_one_clear_line(message, f"{scheme}://", "give s3://bucket/prefix")


@pytest.mark.parametrize("code", ["ObjectParentIsFile", "ExistingObjectIsDirectory"])
def test_a_conflict_that_stays_is_told_after_one_request(code, faults, open_faulty):
    storage = open_faulty()
    faults.requests.clear()
    faults.fail(Answer(409, code), first=1)
    require_one_clear_line(message_of(lambda: storage.write_bytes("k", b"1")), code)
    assert len(faults.requests) == 1


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_a_conflict_of_two_requests_is_tried_again(code, faults, open_faulty):
    storage = open_faulty()
    faults.fail(Answer(409, code), first=1)
    storage.write_bytes("k", b"1")
    assert storage.read_bytes("k") == b"1"


@pytest.mark.parametrize(
    "variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"]
)
def test_line_break_at_the_end_of_a_secret_is_told_before_any_request(
    variable, faults, open_faulty, monkeypatch
):
    name = "s3_region" if variable == "AWS_REGION" else variable
    if variable == "AWS_REGION":
        settings = {"s3_region": f"{CANARY}\n"}
    else:
        settings = {}
        monkeypatch.setenv(variable, f"{CANARY}\n")
    message = message_of(lambda: open_faulty(**settings))
    require_one_clear_line(message, f"{name} holds a space, a line break")
    assert faults.requests == []


def test_file_of_authorities_that_is_not_there_is_told_before_any_request(
    s3_bucket, monkeypatch, tmp_path
):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    config = StorageConfig.from_values({"s3_endpoint_url": "https://127.0.0.1:1"})
    message = message_of(lambda: S3Storage(s3_bucket, config))
    require_one_clear_line(message, "none.pem", "AWS_CA_BUNDLE")
