"""The beginning of a file of JSON lines in, what it shows of the whole out: columns, about how many lines, and whether it can be read."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field

from mm1_ablate.data.files import ENDS, DataFile, remembered
from mm1_ablate.data.readers.file_signatures import GZIP, NO_BYTES, compression_by, compression_of, what_it_is
from mm1_ablate.data.readers.json_lines import BYTE_ORDER_MARK, CHUNK, LOOKED_AT, ONE_LIST, columns_in


@dataclass(frozen=True, slots=True)
class Head:
    """What the first 64 KiB of a file of lines show."""

    columns: dict[str, str] = field(default_factory=dict)
    """Of the first lines, and what they hold. None where not one line ends in there."""
    bytes_of_one: float = 0.0
    """Bytes of the file for each line; 0 where that cannot be said."""
    damage: str = ""
    """Why it cannot be read, if that is so."""


def head_of_lines(file: DataFile) -> Head:
    """What the beginning of a file shows; remembered in the cache."""
    return Head(**json.loads(remembered("heads of lines 1", file, lambda: json.dumps(asdict(_head(file))))))


def _head(file: DataFile) -> Head:
    if file.size == 0:
        return Head(damage=NO_BYTES)
    packed, compression = file.read(0, ENDS), compression_of(file)
    content, used, damage = (packed, len(packed), "") if compression is None else _unpacked_head(packed, compression)
    whole = used == file.size
    if damage:
        named = what_it_is(packed, file.size) if compression_by(packed) is None else ""
        return Head(damage=named or damage)
    *lines, rest = content.removeprefix(BYTE_ORDER_MARK).split(b"\n")
    lines = [line for line in ([*lines, rest] if whole else lines) if line.strip()]
    columns = columns_in(lines[:LOOKED_AT])
    if not columns:
        begins = content.removeprefix(BYTE_ORDER_MARK).lstrip()
        if begins.startswith(b"["):
            return Head(damage=ONE_LIST)
        # A line that does not end in here may be one all the same.
        if begins and (lines or not begins.startswith(b"{")):
            found = f"no JSON object in its first lines, but {(lines or [begins])[0][:60].decode(errors='replace')!r}"
            return Head(damage=what_it_is(content, file.size) or found)
    return Head(columns, used / len(lines) if lines else 0.0)


def _unpacked_head(packed: bytes, compression: str) -> tuple[bytes, int, str]:
    """What the beginning of a compressed file stands for, as far as it goes; how many bytes hold that; and why there is nothing, if it is
    damaged."""
    import pyarrow as pa

    content, why = b"", ""
    if compression == GZIP:
        stream = zlib.decompressobj(wbits=31)
        try:
            content = stream.decompress(packed, CHUNK)
        except zlib.error as error:
            return b"", 0, f"cannot be decompressed: {error}"
        return content, len(packed) - len(stream.unconsumed_tail) - len(stream.unused_data), ""
    used = 0
    try:
        with pa.BufferReader(packed) as raw, pa.CompressedInputStream(raw, compression) as stream:
            while len(content) < CHUNK and (chunk := stream.read(4096)):
                content += chunk
                used = raw.tell()
    except (pa.ArrowException, OSError) as error:
        why = str(error)
    # That the stream goes on beyond its beginning is no damage.
    return content, used, "" if content or "runcated" in why or not why else f"cannot be decompressed: {why}"
