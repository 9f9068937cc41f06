"""TIFF files for tests, tag by tag: also such as no library writes."""

from __future__ import annotations

import struct


def tiff_of(fields, parts, order="<"):
    """Return a file of these tags, all of 32 bits, and of these strips or tiles at its end."""
    offsets = 324 if 322 in fields else 273
    fields = {number: values for number, values in fields.items() if values}
    fields[offsets] = [0] * len(parts)
    begin = 8 + 2 + 12 * len(fields) + 4
    place = begin + sum(4 * len(values) for values in fields.values() if len(values) > 1)
    fields[offsets] = [place + sum(map(len, parts[:number])) for number in range(len(parts))]
    directory, beyond = struct.pack(f"{order}H", len(fields)), b""
    for number, values in sorted(fields.items()):
        value = values[0]
        if len(values) > 1:
            value = begin + len(beyond)
            beyond += struct.pack(f"{order}{len(values)}I", *values)
        directory += struct.pack(f"{order}HHII", number, 4, len(values), value)
    mark = {"<": b"II", ">": b"MM"}[order]
    head = mark + struct.pack(f"{order}HI", 42, 8)
    return head + directory + bytes(4) + beyond + b"".join(parts)
