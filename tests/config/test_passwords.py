"""What addresses are opened by: hidden wherever they are told, whole again where they are opened, and no part of what data is."""

from __future__ import annotations

import json
import time

import pytest

from mm1_ablate.config import passwords
from mm1_ablate.config.passwords import hidden, identity_of_address, known_addresses, remember, with_password, without_passwords

PASSWORD = "s3cr3t"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://anna:s3cr3t@host/x.tar", "https://***@host/x.tar"),
        ("https://s3cr3t@host/x.tar", "https://***@host/x.tar"),
        ("https://anna:s3cr3t@with@at@host:8080/x", "https://***@host:8080/x"),
        ("postgresql+psycopg2://mlflow:s3cr3t@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("simplecache::https://anna:s3cr3t@host/x", "simplecache::https://***@host/x"),
        ("s3://KEY:s3cr3t@bucket/{0..3}.tar", "s3://***@bucket/{0..3}.tar"),
        ("https://h/x.tar?X-Amz-Date=1&X-Amz-Expires=9&X-Amz-Credential=K%2F1&X-Amz-Signature=s3cr3t", "https://h/x.tar?***"),
        ("https://h/x.tar?versionId=3&X-Goog-Expires=9&X-Goog-Signature=s3cr3t", "https://h/x.tar?versionId=3&***"),
        ("https://a.blob.core.windows.net/c/x?sv=2024&sr=b&se=2026&sp=r&sig=s3cr3t%3D", "https://a.blob.core.windows.net/c/x?***"),
        ("https://h/x?token=s3cr3t", "https://h/x?***"),
        ("https://h/x?access_token=s3cr3t#part", "https://h/x?***#part"),
    ],
)
def test_what_an_address_is_opened_by_is_hidden_and_found_again(address: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_whole", {})
    assert without_passwords(address) == shown == without_passwords(shown) and PASSWORD not in shown
    assert without_passwords(f"OSError('{address}'), see <{address}> \"{address}\"").count(shown.partition("#")[0]) == 3
    assert with_password(shown) == shown, "nobody knows"
    assert remember(address) == shown and with_password(shown) == address
    known = json.dumps(known_addresses())
    monkeypatch.setattr(passwords, "_whole", {})
    monkeypatch.setenv(passwords.VARIABLE, known)
    assert with_password(shown) == address, "a child of whoever knows"
    other = address.replace(PASSWORD, "another").replace("Expires=9", "Expires=7").replace("2026", "2027")
    assert identity_of_address(address) == identity_of_address(other) == identity_of_address(shown)
    assert "***" not in identity_of_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/prefix/*.tar",
        "https://host:8080/a@b/x.tar?versionId=3",
        "abfs://container@account.dfs.core.windows.net/x",
        "sftp://anna@host/x",
        "/data/x?.jsonl",
        "/data/***/x.tar",
        "https://host/?***",
        "signature=x and token: y, see section=3",
        "sqlite:////home/a/mlflow.db",
    ],
)
def test_what_needs_no_password_is_what_it_was(address: str) -> None:
    assert without_passwords(address) == with_password(address) == remember(address) == address
    assert identity_of_address(address).rstrip("?") in address


def test_files_beside_one_that_was_declared_are_opened_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_whole", {})
    remember("https://anna:s3cr3t@host/a/*.tar")
    assert with_password("https://***@host/a/1.tar") == "https://anna:s3cr3t@host/a/1.tar"
    assert with_password("https://***@other/a/1.tar") == "https://***@other/a/1.tar"


def test_it_is_hidden_in_values_and_in_long_texts_within_moments() -> None:
    assert hidden({"a": ["https://u:p@h/x", 3, None], "https://u:p@h": ("x",)}) == {
        "a": ["https://***@h/x", 3, None],
        "https://***@h": ("x",),
    }
    began = time.monotonic()
    for text in ("a" * 3_000_000, "://" * 500_000, "?token" * 300_000, "a:" * 1_000_000 + "=", "https://" + "a:" * 300_000):
        without_passwords(text)
    assert time.monotonic() - began < 20
