"""What a refusal of an S3 server means: the user's to mend, not there, or worth another try."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from sightline.errors import UserError
from sightline.storage.base import NotFoundError, UnreadableError
from sightline.storage.retries import PassingError

Access = Literal["read", "write", "delete", "list"]

_PASSING_STATUSES = {408, 429, 500, 502, 503, 504}
# With status 400, the bytes were damaged or cut on their way, or came too slowly; with 409, two
# requests met. Other 409 stay: an object, say, where a folder would have to be.
_PASSING_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_WRONG_KEYS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidSecurity",
    "AuthFailure",
    "XAdminUserNotFound",  # versitygw's word for an unknown key id, with status 404
}
_ABSENT_CODES = {"", "404", "NoSuchKey", "NoSuchUpload", "NoSuchVersion", "NotFound"}


class ConditionFailedError(Exception):
    """A conditional request whose condition did not hold."""


class NotServedError(UserError):
    """A request that the server does not know or does not take."""


@dataclass(frozen=True)
class Refusal:
    """A server's answer that is no success."""

    status: int
    code: str
    """S3's own word, such as NoSuchKey; empty where the answer had none."""
    message: str
    headers: Mapping[str, str]
    """By lower-case name."""


@dataclass(frozen=True)
class Target:
    """Whom a request went to, as messages name it."""

    uri: str
    bucket: str
    endpoint: str
    key_id: str
    """Of the credentials; messages show its last four characters."""


def explain_refusal(refusal: Refusal, target: Target, access: Access) -> Exception:
    """Return the error to raise for a refusal.

    Returns:
        `PassingError` for what a later try may not meet, `NotFoundError` for an absent object,
        `UnreadableError` for one that may not be read or is archived, else a `UserError` that
        says what to mend. None shows more of the credentials than four
        characters of the key id.
    """
    status, code = refusal.status, refusal.code
    if status == 412:
        return ConditionFailedError()
    if code == "NoSuchBucket":
        return UserError(
            f"there is no bucket {target.bucket} at {target.endpoint}: "
            "create it, or mend the address or s3_endpoint_url"
        )
    if status == 404 and code in _ABSENT_CODES and access == "list":
        # A prefix without objects is an empty list, never absent.
        return UserError(
            f"{target.endpoint} does not know the bucket {target.bucket} or is no S3 server "
            "(404): mend the address or s3_endpoint_url"
        )
    if status == 404 and code in _ABSENT_CODES:
        return NotFoundError(f"nothing is stored at {target.uri}")
    if code == "RequestTimeTooSkewed":
        return UserError(_explain_skew(refusal, target))
    if code in ("ExpiredToken", "TokenRefreshRequired"):
        return UserError(f"the credentials for {target.endpoint} have expired: get new ones")
    if code in _WRONG_KEYS or status == 401:
        return UserError(
            f"{target.endpoint} does not accept the credentials with the access key id ending in "
            f"{target.key_id[-4:]!r} ({code or status}): check AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or the secret or role that sets them"
        )
    region = refusal.headers.get("x-amz-bucket-region") or _region_in(refusal.message)
    if status in (301, 307) or code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
        hint = f"set s3_region to {region}" if region else "check s3_region and s3_endpoint_url"
        return UserError(f"{target.bucket} is not served by {target.endpoint} as asked: {hint}")
    if code == "InvalidObjectState":
        return UnreadableError(f"{target.uri} is archived ({code}): restore it, or move it away")
    if code.startswith("KMS.") and access == "read":
        return UnreadableError(
            f"the key that {target.uri} is encrypted with cannot be used ({code})"
        )
    if status == 403:
        return (UnreadableError if access == "read" else UserError)(
            f"no permission to {access} {target.uri} ({code or status}) with the access key id "
            f"ending in {target.key_id[-4:]!r}: allow it in the bucket's policy, "
            "or choose another address"
        )
    reason = f"the server answered {status}" + (f" {code}" if code and code != str(status) else "")
    if status in _PASSING_STATUSES or code in _PASSING_CODES:
        return PassingError(reason, kind=code or str(status), retry_after_seconds=_wait(refusal))
    message = " ".join(refusal.message.split())[:200]
    text = f"cannot {access} {target.uri}: {reason}{': ' if message else ''}{message}"
    return NotServedError(text) if status in (400, 501) else UserError(text)


def refusal_from_xml(status: int, body: bytes, headers: Mapping[str, str]) -> Refusal:
    """Read S3's error document; anything else gives a refusal without a code."""
    text = body[:65536].decode("utf-8", errors="replace")
    code, message = (re.search(rf"<{tag}>([^<]*)</{tag}>", text) for tag in ("Code", "Message"))
    lowered = {name.lower(): value for name, value in headers.items()}
    for tag in ("RequestTime", "ServerTime", "Region"):
        found = re.search(rf"<{tag}>([^<]*)</{tag}>", text)
        if found:
            lowered.setdefault(f"document-{tag.lower()}", found[1])
    return Refusal(status, code[1] if code else "", message[1] if message else "", lowered)


def _explain_skew(refusal: Refusal, target: Target) -> str:
    server = refusal.headers.get("document-servertime") or refusal.headers.get("date", "unknown")
    ours = refusal.headers.get("document-requesttime", "")
    here = f"this machine signed at {ours}" if ours else "this machine's clock says otherwise"
    return (
        f"the clock of this machine and of {target.endpoint} differ too much "
        f"(RequestTimeTooSkewed): the server says {server}, {here}; set this machine's clock"
    )


def _region_in(message: str) -> str:
    found = re.search(r"expecting '([a-z0-9-]+)'", message)
    return found[1] if found else ""


def _wait(refusal: Refusal) -> float:
    asked = refusal.headers.get("retry-after", "")
    try:
        if asked.isdigit():
            return float(asked)
        until = parsedate_to_datetime(asked)
        now = parsedate_to_datetime(refusal.headers["date"])
        return max(0.0, (until - now).total_seconds())
    except (KeyError, TypeError, ValueError):
        return 0.0
