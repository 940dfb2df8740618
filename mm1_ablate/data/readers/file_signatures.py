"""The first bytes of a file in, what it is out, where it is not what its name says: a page of a server, a pointer, another format."""

from __future__ import annotations

from mm1_ablate.data.files import DataFile, cached_text

HEAD = 512
"""Bytes of the beginning, and of the end, that are looked at."""
GZIP, ZSTD = "gzip", "zstd"
COMPRESSIONS = {".gz": GZIP, ".zst": ZSTD, ".zstd": ZSTD}
"""Endings of names of compressed files."""
MAGIC = {
    b"\x1f\x8b": GZIP,
    b"\x28\xb5\x2f\xfd": ZSTD,
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
}
"""How compressed files begin."""
OTHERS = {
    b"version https://git-lfs.github.com/spec/": "a git-lfs pointer instead of the file; fetch the file with `git lfs pull`",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"PK\x05\x06": "an empty zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!": "a rar archive; unpack it",
    b"PAR1": "parquet",
    b"ARROW1": "an Arrow file; write it as parquet",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
}
"""How files of other formats begin, and what to do about them."""
PAGES = {
    (b"<!doctype html", b"<html", b"<head"): "an HTML page, such as a server's error; download the file again",
    (b"<?xml", b"<error>"): "an XML page, such as a store's error; download the file again",
}
NO_BYTES = "a file of 0 bytes"


def compression_by(head: bytes) -> str | None:
    """What a file is compressed with, by its first bytes; None if it is not."""
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def describe_format(head: bytes, size: int) -> str:
    """What a file is that is in none of the formats of samples, with a remedy; empty where it is unknown."""
    if size == 0:
        return NO_BYTES
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    for tags, name in PAGES.items():
        if begins.startswith(tags):
            return name
    if found := next((name for magic, name in OTHERS.items() if head.startswith(magic)), ""):
        return found
    if head[257:262] == b"ustar":
        return "a tar"
    if compression := compression_by(head):
        return f"compressed with {compression}; unpack it"
    return "" if any(head) else "all zeros, as an unfinished download leaves"


def compression_of(file: DataFile) -> str | None:
    """What a file of text is compressed with, gzip or zstd: its first bytes say so, its name only where they say nothing."""
    head, _ = head_and_tail(file)
    if (found := compression_by(head)) in (GZIP, ZSTD):
        return found
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")):
        return None
    return next((name for suffix, name in COMPRESSIONS.items() if file.name.lower().endswith(suffix)), None)


def without_compression(name: str) -> str:
    """The name of a file in lower case without the ending of a compression."""
    name = name.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name


def head_and_tail(file: DataFile) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file, `HEAD` of each. Of files far away they are remembered."""

    def read() -> str:
        return f"{file.read(0, HEAD).hex()} {file.read(max(0, file.size - HEAD), HEAD).hex()}"

    head, _, tail = (read() if file.is_local else cached_text("ends", file, read)).partition(" ")
    return bytes.fromhex(head), bytes.fromhex(tail)
