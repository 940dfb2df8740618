"""Shards in a bucket, over HTTP against a real S3 server on this machine: found, told apart, indexed, and read by ranges."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset
from moto.server import ThreadedMotoServer
from PIL import Image as pil

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.files import NoFiles, find_files
from mm1_ablate.data.sources.webdataset import WebDataset


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server."""
    running = ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """s3://shards, and s3fs told by the environment alone where it is, as a user tells it."""
    import boto3
    import s3fs

    for name, value in {
        "ENDPOINT_URL": server,
        "ACCESS_KEY_ID": "testing",
        "SECRET_ACCESS_KEY": "testing",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    kept = boto3.resource("s3").Bucket("shards")
    kept.create()
    yield kept
    kept.objects.all().delete()
    kept.delete()
    s3fs.S3FileSystem.clear_instance_cache()


def shard(first: int, count: int = 5) -> bytes:
    """A tar as img2dataset writes it."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer) as writer:
        for number in range(first, first + count):
            encoded = io.BytesIO()
            pil.new("RGB", (32, 24), (number, 0, 0)).save(encoded, "PNG")
            writer.write({"__key__": f"{number:09}", "png": encoded.getvalue(), "json": b"{}", "txt": f"image {number}"})
    return buffer.getvalue()


def put(bucket: Any, count: int = 3) -> None:
    for number in range(count):
        bucket.put_object(Key=f"cc3m/{number:05}.tar", Body=shard(number * 5))


def test_a_bucket_is_a_source_like_a_folder(bucket: Any, tmp_path: Path) -> None:
    put(bucket)
    for number in range(3):
        (tmp_path / f"{number:05}.tar").write_bytes(bucket.Object(f"cc3m/{number:05}.tar").get()["Body"].read())
    remote, local = WebDataset(files=("s3://shards/cc3m/{00000..00002}.tar",)), WebDataset(files=(f"{tmp_path}/*.tar",))
    remote.check()
    assert remote.contents() == local.contents() == WebDataset(files=("s3://shards/*/*.tar",)).contents()
    ours, theirs = remote.open(), local.open()
    assert len(ours) == len(theirs) == 15
    for index in (14, 0, 7):
        assert (
            (ours[index].key, ours[index].text)
            == (theirs[index].key, theirs[index].text)
            == (f"{index // 5:05}.tar/{index:09}", f"image {index}")
        )
        assert ours[index].images[0].key == theirs[index].images[0].key
        assert ours[index].images[0].load()[0, 0, 0] == index


def test_a_sample_is_one_request_and_indexing_reads_a_shard_once(bucket: Any, caplog: pytest.LogCaptureFixture) -> None:
    put(bucket, 1)
    size = bucket.Object("cc3m/00000.tar").content_length
    with caplog.at_level("DEBUG", logger="botocore.endpoint"):

        def ranges() -> list[tuple[int, int]]:
            requests = [record.getMessage() for record in caplog.records if "Making request" in record.getMessage()]
            caplog.clear()
            found = [re.search(r"'Range': 'bytes=(\d+)-(\d+)'", request) for request in requests]
            return [(int(match[1]), int(match[2])) for match in found if match]

        opened = WebDataset(files=("s3://shards/cc3m/*.tar",)).open()
        assert sum(min(end, size - 1) - begin + 1 for begin, end in ranges()) <= size + 2 * 64 * 1024
        document = opened[3]
        document.images[0].load()
        read = ranges()
    assert len(read) == 1 and read[0][1] - read[0][0] < size / 4


def test_a_shard_that_changes_in_the_bucket_is_other_data(bucket: Any) -> None:
    put(bucket)
    source = WebDataset(files=("s3://shards/cc3m/*.tar",))
    before = source.contents()
    bucket.put_object(Key="cc3m/00001.tar", Body=shard(100, 6))
    assert source.contents() != before
    assert [source.open()[index].text for index in (4, 5, 10, 11)] == ["image 4", "image 100", "image 105", "image 10"]


def test_many_shards_are_found_by_one_listing(bucket: Any, caplog: pytest.LogCaptureFixture) -> None:
    put(bucket, 12)
    with caplog.at_level("DEBUG", logger="botocore.endpoint"):
        assert len(find_files(["s3://shards/cc3m/{00000..00011}.tar"])) == 12
    assert len([record for record in caplog.records if "Making request" in record.getMessage()]) <= 2


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("s3://shards/cc3m/{00000..00009}.tar", r"00003\.tar' \(of '.*'\); the nearest folder that exists is s3://shards/cc3m$"),
        ("s3://shards/cc12m/*.tar", r"no file matches 's3://shards/cc12m/\*\.tar'; the nearest folder that exists is s3://shards$"),
        ("s3://no-such-bucket/*.tar", r"no-such-bucket"),
    ],
)
def test_what_is_not_in_the_bucket_is_an_error_of_the_plan(bucket: Any, pattern: str, says: str) -> None:
    put(bucket)
    with pytest.raises(NoFiles, match=says):
        find_files([pattern])
    with pytest.raises(SettingError, match=says) as error:
        WebDataset(files=(pattern,)).check()
    assert error.value.at == "files"
