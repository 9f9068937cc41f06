"""A secret looked for as it is and as what carries it may spell it: base64, hex, in an address."""

import base64
import urllib.parse


def spellings(secret):
    """Return the bytes that a secret leaves wherever it stands."""
    plain = secret.encode()
    found = {plain, plain.hex().encode(), urllib.parse.quote(secret, safe="").encode()}
    for before in range(3):
        # Six bits a letter: those that share a byte with what stands before or after vary.
        text = base64.b64encode(b"\0" * before + plain + b"\0" * 3)
        first, end = -(-8 * before // 6), 8 * (before + len(plain)) // 6
        found.add(text[first:end])
    return found


def places_with(secret, texts):
    """Return the names of the texts that hold a secret in any spelling.

    Args:
        secret: What nobody may see.
        texts: Names, and the bytes or text of each.
    """
    wanted = spellings(secret)
    return sorted(
        name
        for name, text in texts.items()
        if any(form in (text.encode() if isinstance(text, str) else text) for form in wanted)
    )
