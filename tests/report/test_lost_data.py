"""Data that was skipped or cut: of several trials the largest count, in the order of how bad it is."""

from __future__ import annotations

from typing import Any

from mm1_ablate.report.lost_data import DataLoss, data_losses

LOST = {"in_words": "2 of 9 files cannot be read", "of": "documents", "documents": 2000, "first": ["a.tar", "b.tar"]}


def test_each_reason_is_told_once_by_the_trial_with_the_largest_count() -> None:
    accounts: list[dict[str, dict[str, Any]]] = [
        {"b": {"drawn": 100, "documents": 7, "bad": {"odd": 3, "empty": 5},
               "examples": {"odd": ["x", 2], "small": ["y"]}, "left_out": {"small": 9}}},
        {"b": {"drawn": 80, "bad": {"odd": 4}, "split": 0}, "a": {"documents": 30, "bad": {"odd": 1}, "dropped": {"long": 2}}},
        {"a": {"lost": [LOST], "split": 1_234, "pieces": 5_678}, "c": {}},
    ]  # fmt: skip
    assert data_losses(accounts) == (
        DataLoss("a", "lost with files", "2 of 9 files cannot be read", 2000, 0, 1, ("a.tar", "b.tar")),
        DataLoss("a", "unreadable", "odd", 1, 30, 1),
        DataLoss("b", "unreadable", "empty", 5, 100, 1),
        DataLoss("b", "unreadable", "odd", 4, 80, 2),
        DataLoss("b", "not kept", "small", 9, 100, 1),
        DataLoss("a", "left out by the packing", "long", 2, 30, 1),
        DataLoss("a", "cut by the packing", "in 5,678 pieces", 1234, 0, 1),
    )
    assert data_losses([]) == data_losses([{}]) == ()


def test_a_loss_is_told_with_its_first_documents_as_far_as_they_are_known() -> None:
    assert (
        DataLoss("a", "unreadable", "odd", 1234, 56_789, 2, ("x", "y")).in_words()
        == "a: 1,234 odd, in 56,789 documents drawn (first: x, y)"
    )
    assert DataLoss("a", "unreadable", "odd", 1, 5, 1).in_words() == "a: 1 odd, in 5 documents drawn"
    assert DataLoss("a", "lost with files", "2 of 9 files", 1, 5, 1, ("x",)).in_words() == "a: 2 of 9 files"
    assert DataLoss("a", "not kept", "small", 1, 5, 3, ("x",)).to_json() == {
        "source": "a", "kind": "not kept", "reason": "small", "count": 1, "drawn": 5, "trials": 3, "examples": ["x"],
    }  # fmt: skip
