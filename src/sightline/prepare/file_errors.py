"""Which failures to read a file concern that file alone, so that the others go on without it."""

from __future__ import annotations

from collections.abc import Callable

from sightline.images import ImageError
from sightline.storage import NotFoundError, UnreadableError


def read_listed(read: Callable[[str], bytes], key: str) -> bytes:
    """Return the bytes of a file that was listed.

    Args:
        read: Reads a storage's object, such as `Storage.read_bytes`.
        key: Which.

    Raises:
        ImageError: If this file is not given; the message is the reason.
        UserError: If the store cannot be used at all: wrong credentials, no such bucket.
        StorageUnavailableError: If it gives no answer.
    """
    try:
        return read(key)
    except NotFoundError:
        raise ImageError("was removed after it was listed") from None
    except UnreadableError as error:
        raise ImageError(str(error)) from None
