"""Files in (plain, gzip or zstd), their bytes out, decompressed: all of them, chunk by chunk, or the beginning alone.

A file that is damaged raises `Damaged`; a file that cannot be fetched raises what its file system raises, so that a lost connection is
never taken for damage.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import BinaryIO

from mm1_ablate.data.cache import BytesAdded
from mm1_ablate.data.files import DataFile
from mm1_ablate.data.readers.file_signatures import GZIP, NO_BYTES, compression_of

CHUNK = 1 << 20
"""Bytes that are read at once."""
MOST_GROWTH, ALWAYS_ALLOWED = 100, 64 << 20
"""How many times its size a compressed file may unpack to, beyond some bytes that any may. Text shrinks to a tenth, JSON with little in it
to a thirtieth; a bomb to a thousandth."""


class Damaged(Exception):
    """The bytes of a file are not what its format says.

    Args:
        read: bytes of the file that could be read before.
    """

    def __init__(self, message: str, read: int = 0) -> None:
        super().__init__(message)
        self.read = read


class WatchedFile:
    """A file that remembers whether reading it failed: then the file system is at fault, not the bytes."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failed = False

    def read(self, count: int = -1) -> bytes:
        try:
            return self._file.read(count)
        except Exception:
            self.failed = True
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        self._file.close()


@contextmanager
def reading(file: DataFile) -> Iterator[WatchedFile]:
    """The whole file, to be handed to pyarrow.

    Raises:
        Damaged: pyarrow cannot make sense of it.
    """
    import pyarrow as pa

    watched = WatchedFile(file.open())
    try:
        yield watched
    except (pa.ArrowException, OSError) as error:
        # What the operating system refuses, such as room on the disk, has a number.
        if watched.failed or getattr(error, "errno", None) is not None:
            raise
        raise Damaged(str(error)) from error
    finally:
        watched.close()


def decompressed(file: DataFile) -> bytes:
    """All bytes of a file; of a compressed one, decompressed.

    Raises:
        Damaged: it cannot be decompressed, or not to its end.
        OSError: it cannot be read.
    """
    compression = compression_of(file)
    if compression is None:
        with file.open() as plain:
            return plain.read()
    if file.size == 0:
        raise Damaged("it is empty")
    import pyarrow as pa  # late: most annotation files are plain

    with reading(file) as raw, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression) as stream:
        return b"".join(_limited(iter(partial(stream.read, CHUNK), b""), file))


def most_unpacked(file: DataFile) -> int:
    """Bytes that a compressed file may unpack to."""
    return MOST_GROWTH * file.size + ALWAYS_ALLOWED


def _limited(unpacked: Iterator[bytes], file: DataFile) -> Iterator[bytes]:
    left = most_unpacked(file)
    for chunk in unpacked:
        yield chunk
        left -= len(chunk)
        if left < 0:
            raise Damaged(f"its {file.size:,} bytes unpack to more than {MOST_GROWTH} times as many; unpack it yourself if that is meant")


def chunks(file: DataFile, add: BytesAdded = lambda count: None) -> Iterator[bytes]:
    """The bytes of a file in chunks of up to `CHUNK`; of a compressed one, decompressed.

    Args:
        add: called with the number of bytes of the file that were read since its last call.

    Raises:
        Damaged: after all that could be read of a compressed file.
    """
    compression = compression_of(file)
    if compression is not None:
        yield from _decompressed_chunks(file, compression, add)
        return
    with file.open() as opened:
        while chunk := opened.read(CHUNK):
            yield chunk
            add(len(chunk))


def _decompressed_chunks(file: DataFile, compression: str, add: BytesAdded) -> Iterator[bytes]:
    import pyarrow as pa

    done = packed = 0
    if file.size == 0:
        raise Damaged(NO_BYTES)
    try:
        with reading(file) as raw, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression) as stream:
            for chunk in _limited(iter(partial(stream.read, CHUNK), b""), file):
                done += len(chunk)
                yield chunk
                before, packed = packed, raw.tell()
                add(packed - before)
        return
    except Damaged as error:
        damage = Damaged(str(error), packed)
    if done > most_unpacked(file):
        raise damage
    # The read that failed took with it what it had so far: the same way again, and the last stretch in small steps.
    rest = bytearray()
    with suppress(Damaged), reading(file) as raw, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression) as stream:
        while done:
            done -= len(stream.read(min(done, CHUNK)))
        while chunk := stream.read(64):
            rest += chunk
    yield bytes(rest)
    raise damage


def compressed_size(file: DataFile, compression: str, decompressed_bytes: int) -> int:
    """Bytes of a compressed file that hold its first `decompressed_bytes`."""
    import pyarrow as pa

    with reading(file) as raw, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression) as stream:
        stream.read(decompressed_bytes)
        return raw.tell()


def decompressed_head(packed: bytes, compression: str) -> tuple[bytes, int, str]:
    """What the first bytes of a compressed file decompress to.

    Returns:
        The decompressed bytes, up to about `CHUNK`; how many bytes of `packed` hold them; and why there are none, if it is damaged.
    """
    import pyarrow as pa

    content, why = b"", ""
    if compression == GZIP:
        decompressor = zlib.decompressobj(wbits=31)
        try:
            content = decompressor.decompress(packed, CHUNK)
        except zlib.error as error:
            return b"", 0, f"cannot be decompressed: {error}"
        return content, len(packed) - len(decompressor.unconsumed_tail) - len(decompressor.unused_data), ""
    used = 0
    try:
        with pa.BufferReader(packed) as raw, pa.CompressedInputStream(raw, compression) as stream:
            while len(content) < CHUNK and (chunk := stream.read(4096)):
                content += chunk
                used = raw.tell()
    except (pa.ArrowException, OSError) as error:
        why = str(error)
    # A stream that continues after its beginning is not damaged.
    return content, used, "" if content or "runcated" in why or not why else f"cannot be decompressed: {why}"


def gunzipped(head: bytes) -> bytes | None:
    """What the first bytes of a gzip file decompress to, as far as they go; None if they cannot be decompressed."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head)
    except zlib.error:
        return None
