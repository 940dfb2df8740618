"""What checks found out: asked once, kept from one command to the next, forgotten with other versions, and never a reason to fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mm1_ablate.data import cache as caches
from mm1_ablate.data.cache import known, remember, remembered


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fail() -> None:
    raise AssertionError("asked again")


def test_an_answer_is_found_once_and_read_by_later_commands(cache: Path) -> None:
    assert known("a") is None
    assert remembered("a", lambda: {"pair": (1, 2)}) == {"pair": [1, 2]}
    remember("b", {})
    assert remembered("a", fail) == {"pair": [1, 2]} and known("b") == {}
    assert [path.name for path in cache.iterdir()] == ["checks.json"]


def test_none_is_an_answer_too() -> None:
    assert remembered("a", lambda: None) is None
    assert remembered("a", fail) is None


def test_what_another_command_wrote_meanwhile_stays(cache: Path) -> None:
    remember("a", 1)
    content = json.loads((cache / "checks.json").read_text())
    content["answers"]["of another"] = 2
    (cache / "checks.json").write_text(json.dumps(content))
    assert known("of another") == 2
    remember("b", 3)
    assert json.loads((cache / "checks.json").read_text())["answers"] == {"a": 1, "of another": 2, "b": 3}


def test_a_file_that_is_deleted_is_forgotten(cache: Path) -> None:
    remember("a", 1)
    assert known("a") == 1
    (cache / "checks.json").unlink()
    assert known("a") is None


def test_what_fails_is_not_kept() -> None:
    with pytest.raises(AssertionError):
        remembered("a", fail)
    assert remembered("a", lambda: 1) == 1


def test_answers_by_other_rules_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    remember("a", 1)
    monkeypatch.setattr(caches, "RULES", caches.RULES + 1)
    assert known("a") is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_file_is_an_empty_one(cache: Path, content: str) -> None:
    cache.mkdir()
    (cache / "checks.json").write_text(content)
    assert known("a") is None
    assert remembered("a", lambda: 1) == 1


def test_a_cache_that_cannot_be_written_costs_only_time(cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    assert remembered("a", lambda: 1) == 1
    assert remembered("a", fail) == 1, "by this process"
