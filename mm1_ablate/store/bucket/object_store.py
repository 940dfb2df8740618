"""Object storage as a store uses it: whole objects below an address, written on conditions, with errors that say what to do.

In: an address that fsspec knows, such as s3://bucket/prefix. Out: listings with tags that change when an object does, contents,
and writes that happen only if an object is not there, or is still the one that was seen.
"""

from __future__ import annotations

import contextlib
import posixpath
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mm1_ablate.store.files import StorageError
from mm1_ablate.store.locks import LOCK

AT_ONCE = 16
"""Requests for small objects that are under way together."""
CLOCK_KEPT = 600.0
"""Seconds for which our clock is taken to go as fast as the server's, before that is asked for the time again."""
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
"""Codes of S3 for a write whose condition does not hold."""
LONGEST_NAME = 255
"""Bytes of a component of a path; file systems refuse longer ones."""
NAMED = 3
"""Refused objects that one line names."""
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "UnauthorizedSSOTokenError")
"""Errors of botocore, which only S3 needs."""


class StoredObject(NamedTuple):
    """An object of a listing."""

    size: int
    tag: str
    """Changes when the object does."""
    written: float
    """Seconds since the epoch, by the server's clock."""


class ObjectStore:
    """Objects below an address; paths are relative to it. Nothing is asked before the first call.

    Every method raises `StorageError` where the storage cannot be used, and FileNotFoundError where an object that is read is not there.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._clock: tuple[float, float] | None = None
        self._refused: set[str] = set()
        """Keys that were told of."""

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec

        try:
            # Listings that it keeps would hide what other machines have written.
            filesystem, base = fsspec.core.url_to_fs(self.address, use_listings_cache=False)
        except ImportError as error:
            hint = "pip install 'mm1-ablate[s3]'" if self.address.startswith("s3") else f"install it: {error}"
            raise StorageError(f"the store {self.address} cannot be used: {error}; {hint}") from error
        except ValueError as error:
            raise StorageError(f"the store {self.address} cannot be used: {error}") from error
        return filesystem, str(base).rstrip("/")

    @property
    def _filesystem(self) -> Any:
        return self._opened[0]

    @property
    def bucket(self) -> str:
        return self._opened[1].partition("/")[0]

    @property
    def _is_s3(self) -> bool:
        return "s3" in self._filesystem.protocol

    def _path(self, path: str) -> str:
        return f"{self._opened[1]}/{path}" if path else self._opened[1]

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError, StorageError) as error:
            if isinstance(error, FileNotFoundError) and _code(error) in ("NoSuchBucket",):
                raise StorageError(self._no_bucket()) from error
            raise
        except PermissionError as error:
            needed = "it takes s3:ListBucket on the bucket and s3:GetObject, s3:PutObject and s3:DeleteObject below it (docs/cluster.md)"
            raise StorageError(f"no permission to {doing} in the store {self.address} ({_line(error)}); {needed}") from error
        except Exception as error:  # each file system has its own kinds
            if type(error).__name__ in NO_CREDENTIALS:
                where = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile with AWS_PROFILE, or give the machine a role"
                raise StorageError(f"no credentials for the store {self.address} ({_line(error)}): {where}") from error
            raise StorageError(f"cannot {doing} in the store {self.address}: {type(error).__name__}: {_line(error)}") from error

    def _no_bucket(self) -> str:
        return f"there is no bucket '{self.bucket}' for the store {self.address}: make it, or name another with --store or MM1_ABLATE_STORE"

    # ---------------------------------------------------------------- reading
    def list(self, below: str = "") -> dict[str, StoredObject]:
        """All objects in a folder whose keys are paths of a store. Others are left out, and named on standard error once: whoever may write
        in the bucket must not choose where this machine writes."""
        with self._explained("list"):
            try:
                if self._is_s3 and below:  # one request, also where nothing is
                    found = self._filesystem.find(self._opened[1], prefix=f"{below}/", detail=True)
                else:
                    found = self._filesystem.find(self._path(below), detail=True)
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                found = {}
            start = len(self._opened[1]) + 1
            return self._paths({name[start:]: _entry(info) for name, info in found.items() if info["type"] == "file"})

    def _paths(self, found: dict[str, StoredObject]) -> dict[str, StoredObject]:
        # Of a folder that somebody made in a browser there is an empty object, called as the folder is.
        found = {path: entry for path, entry in found.items() if entry.size or not (path.endswith("/") or not path)}
        folders = {path[:end] for path in found for end, character in enumerate(path) if character == "/"}
        wrong = {path: why for path in found if (why := why_no_path(path) or ("is a folder too" if path in folders else ""))}
        new = {path: why for path, why in wrong.items() if path not in self._refused}
        if new:
            self._refused.update(new)
            named = ", ".join(f"{path[:200]!r} ({why})" for path, why in list(new.items())[:NAMED])
            more = f" and {len(new) - NAMED} more" if len(new) > NAMED else ""
            print(
                f"the store {self.address} holds objects whose keys name no place in a store, which are not read: {named}{more};"
                " find out who wrote them, and remove them",
                file=sys.stderr,
                flush=True,
            )
        return {path: entry for path, entry in found.items() if path not in wrong}

    def entry(self, path: str) -> StoredObject | None:
        """One object's; None if it is not there."""
        with self._explained("read"):
            try:
                return _entry(self._filesystem.info(self._path(path), refresh=True))
            except FileNotFoundError:
                return None

    def read(self, path: str) -> bytes:
        with self._explained("read"):
            # Several requests for one object would be told first how large it is.
            content: bytes = self._filesystem.cat_file(self._path(path), **({"max_concurrency": 1} if self._is_s3 else {}))
            return content

    def read_several(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Small objects, by path; without those that are gone."""

        def one(path: str) -> tuple[str, bytes | None]:
            try:
                return path, self.read(path)
            except FileNotFoundError:
                return path, None

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return {path: content for path, content in pool.map(one, list(paths)) if content is not None}

    def download(self, path: str, file: Path) -> None:
        """An object into a file, which is to be thrown away if this fails."""
        with self._explained("read"):
            self._filesystem.get_file(self._path(path), str(file))

    def now(self) -> float:
        """The time by the server's clock, which entries are dated by. Where it cannot be asked: by ours."""
        if self._clock is None or time.monotonic() - self._clock[1] > CLOCK_KEPT:
            there = time.time()
            if self._is_s3:
                with self._explained("list"), contextlib.suppress(LookupError, ValueError):
                    answer = self._filesystem.call_s3("head_bucket", Bucket=self.bucket)
                    date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
                    there = parsedate_to_datetime(date).timestamp()
            # Measured by a monotonic clock: a clock that is set forward would make live leases look old.
            self._clock = there, time.monotonic()
        return self._clock[0] + time.monotonic() - self._clock[1]

    # ---------------------------------------------------------------- writing
    def write(self, path: str, content: bytes) -> str:
        """Write an object, whatever is there; returns its tag."""
        with self._explained("write"):
            return self._tag(path, self._filesystem.pipe_file(self._path(path), content))

    def upload(self, file: Path, path: str) -> str:
        """A file of any size into an object; returns its tag."""
        with self._explained("write"):
            self._filesystem.put_file(str(file), self._path(path))
            return self._tag(path, None)

    def create(self, path: str, content: bytes) -> str | None:
        """Write an object if there is none; returns its tag, or None if there is one."""
        with self._explained("write"):
            try:
                return self._tag(path, self._filesystem.pipe_file(self._path(path), content, mode="create"))
            except OSError as error:
                if isinstance(error, FileExistsError) or _code(error) in REFUSED:
                    return None
                raise

    def replace(self, path: str, content: bytes, tag: str) -> str | None:
        """Write an object if the one there has a tag; returns the new tag, or None if it has another or is gone.

        Where a file system has no such condition it is looked at first: so another process may write in between.
        """
        with self._explained("write"):
            if not self._is_s3:
                found = self.entry(path)
                return None if found is None or found.tag != tag else self.write(path, content)
            try:
                return self._tag(path, self._filesystem.pipe_file(self._path(path), content, IfMatch=f'"{tag}"'))
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None
            except OSError as error:
                if _code(error) in REFUSED:
                    return None
                raise

    def delete(self, path: str) -> None:
        """Remove an object, if there is one."""
        with self._explained("delete"), contextlib.suppress(FileNotFoundError):
            self._filesystem.rm_file(self._path(path))

    def _tag(self, path: str, answer: Any) -> str:
        if isinstance(answer, Mapping) and answer.get("ETag"):
            return str(answer["ETag"]).strip('"')
        found = self.entry(path)
        return found.tag if found else ""

    # ---------------------------------------------------------------- trying it out
    def check(self) -> None:
        """Write, read, list, write on conditions and delete an object of our own.

        Raises:
            StorageError: one of them cannot be done, or conditions are ignored: two machines would train the same trial.
        """
        path = posixpath.join("probe", uuid.uuid4().hex[:12])
        self.list(path)
        try:
            first = self.create(path, b"first")
            problem = None
            if first is None or self.read(path) != b"first" or path not in self.list(posixpath.dirname(path)):
                problem = "does not give back what was written to it"
            elif self.create(path, b"second") is not None:
                problem = "writes an object that is to be written only if there is none (If-None-Match)"
            elif self.replace(path, b"second", "0" * 32) is not None or self.replace(path, b"second", first) is None:
                problem = "does not heed the condition that an object is still the one that was seen (If-Match)"
        finally:
            self.delete(path)
        if problem:
            raise StorageError(
                f"the server of {self.address} {problem}, so two machines could train the same trial; "
                "use S3 itself or a server with conditional writes, or a folder that all nodes share"
            )


def why_no_path(key: str) -> str:
    """Why an object's key, relative to the store, names no file of a store; empty where it does."""
    parts = key.split("/")
    if key.startswith("/"):
        return "an absolute path"
    if "" in parts:
        return "an empty component"
    if "." in parts or ".." in parts:
        return "a component '.' or '..'"
    if "\0" in key:
        return "the character NUL"
    if any(len(part.encode("utf-8", "surrogatepass")) > LONGEST_NAME for part in parts):
        return f"a component longer than {LONGEST_NAME} bytes"
    if parts[0].startswith(".") or parts[-1] == LOCK:
        return "a name of this machine's own files"
    return ""


def _entry(info: Mapping[str, Any]) -> StoredObject:
    size = int(info.get("size") or 0)
    written = next((info[key] for key in ("LastModified", "last_modified", "updated", "mtime", "created") if info.get(key)), 0.0)
    if isinstance(written, str):
        written = datetime.fromisoformat(written)
    seconds = written.timestamp() if isinstance(written, datetime) else float(written)
    tag = next((str(info[key]).strip('"') for key in ("ETag", "etag", "md5Hash", "content_md5") if info.get(key)), f"{size}-{seconds}")
    return StoredObject(size, tag, seconds)


def _code(error: BaseException | None) -> str:
    """S3's code of an error that s3fs has made a Python one."""
    response = getattr(error, "response", None) or getattr(getattr(error, "__cause__", None), "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
