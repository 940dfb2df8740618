"""The accounting: everything that is not used is counted, shares mean what they say, and too much bad data stops with a clear error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_ablate.data.accounting import Accounting, SourceCounts, TooMuchBadData, describe_bad, describe_unused
from mm1_ablate.data.counter_based_random import Draws
from mm1_ablate.data.documents import Unreadable

COUNTS = st.integers(0, 1000)
NAMED = st.dictionaries(st.sampled_from(["truncated JPEG", "empty caption", "longer than a row"]), st.integers(1, 99))
TALLIES = st.builds(
    lambda counts, bad, left_out: _accounting(counts, bad, left_out),
    st.fixed_dictionaries({name: COUNTS for name in ("drawn", "documents", "images", "tokens", "bad_documents", "loaded_images", "split")}),
    NAMED,
    NAMED,
)


def _accounting(counts: dict[str, Any], bad: dict[str, int], left_out: dict[str, int]) -> SourceCounts:
    accounting = SourceCounts(**counts)
    accounting.left_out.update(left_out)
    for reason, count in bad.items():
        for place in range(count):
            accounting.add_bad(Unreadable(reason, f"{reason} {place}"))
    return accounting


def bad_documents(bad: int, drawn: int, length: int, limit: float) -> Accounting:
    accounting = Accounting({"laion": length}, {"laion": limit})
    accounting["laion"].drawn, accounting["laion"].bad_documents = drawn, bad
    for place in range(bad):
        accounting["laion"].add_bad(Unreadable("empty caption", f"00001.tar/{place:09}"))
    return accounting


def test_too_much_bad_data_is_an_error_that_names_source_share_reasons_examples_and_what_to_do():
    accounting = bad_documents(bad=30, drawn=1000, length=10**6, limit=0.01)
    accounting["laion"].add_bad(Unreadable("truncated JPEG", "00002.tar/7"))
    with pytest.raises(TooMuchBadData) as raised:
        accounting.check()
    assert str(raised.value) == (
        "3.0% of source 'laion' cannot be read (of 1,000 documents drawn), more than the 1.0% allowed: 30 empty caption "
        "(first: 00001.tar/000000000, 00001.tar/000000001, 00001.tar/000000002); 1 truncated JPEG (first: 00002.tar/7). Repair or remove "
        "these files, or allow more with data.sources.laion.max_bad_share (or data.max_bad_share for all sources)"
    )
    assert raised.value.counts == accounting.state()


@pytest.mark.parametrize(
    ("bad", "drawn", "length", "limit", "stops"),
    [
        (19, 1000, 10**6, 0.01, False),  # as chance may have it
        (20, 1000, 10**6, 0.01, True),
        (10_200, 10**6, 10**8, 0.01, False),
        (10_400, 10**6, 10**8, 0.01, True),
        (3, 5, 10**6, 0.01, False),  # too few to say
        (79, 79, 10**6, 0.01, True),  # and enough, were all that follow good
        (10, 1000, 1000, 0.01, False),  # the whole of a source, where chance has no part
        (11, 1000, 1000, 0.01, True),
        (11, 20, 1000, 0.01, True),  # more will not be fewer
        (1, 20, 20, 0.05, False),
        (2, 21, 20, 0.05, False),  # the same one, first in the second epoch
        (3, 21, 20, 0.05, True),
        (0, 1000, 10**6, 0.0, False),
        (1, 1000, 10**6, 0.0, True),
        (1, 1, 10**6, 0.0, True),
        (1000, 1000, 10**6, 1.0, False),
    ],
)
def test_a_share_is_too_large_where_that_is_certain_or_no_matter_of_chance(bad: int, drawn: int, length: int, limit: float, stops: bool):
    accounting = bad_documents(bad, drawn, length, limit)
    if stops:
        with pytest.raises(TooMuchBadData):
            accounting.check()
    else:
        accounting.check()


@pytest.mark.parametrize("rate", [0.005, 0.008, 0.01])
def test_a_source_within_its_limit_is_not_stopped_by_bad_luck(rate: float):
    stopped = 0
    for seed in range(200):
        accounting = bad_documents(0, 0, 10**6, 0.01)
        draws = Draws(seed, 0)
        try:
            for _ in range(2000):
                accounting["laion"].drawn += 1
                if draws.chance(rate):
                    accounting["laion"].bad_documents += 1
                    accounting["laion"].add_bad(Unreadable("truncated image"))
                    accounting.check()
        except TooMuchBadData:
            stopped += 1
    assert stopped <= 6


def test_one_page_without_its_images_says_nothing_yet_of_a_source_of_pages():
    accounting = SourceCounts(drawn=1, documents=1, missing_images=3)
    assert not accounting.is_too_bad(0.01, 80)
    assert SourceCounts(drawn=45, documents=45, missing_images=79).is_too_bad(0.01, 80)
    assert not SourceCounts(drawn=80, documents=80, images=297, missing_images=3).is_too_bad(0.01, 80)
    assert SourceCounts(drawn=80, documents=80, images=296, missing_images=4).is_too_bad(0.01, 80)


def test_two_of_forty_captioned_images_are_too_many():
    accounting = SourceCounts(drawn=40, documents=40, images=40, loaded_images=30, unreadable_images=2)
    assert accounting.is_too_bad(0.01, 40) and not accounting.is_too_bad(0.05, 40)


def test_a_source_all_of_which_may_be_bad_is_never_stopped():
    accounting = bad_documents(900, 1000, 1000, 1.0)
    accounting["laion"].loaded_images = accounting["laion"].unreadable_images = 100
    accounting["laion"].add_bad(Unreadable("not an image"))
    accounting.check()
    assert accounting["laion"].bad_share() == 1


def test_a_source_without_a_limit_may_be_as_bad_as_it_likes():
    accounting = bad_documents(900, 1000, 10**6, 0.01)
    accounting.limits.clear()
    accounting.check()


def test_shares_of_each_stage_add_up():
    accounting = SourceCounts(drawn=100, bad_documents=2, images=380, missing_images=20, loaded_images=50, unreadable_images=1)
    assert accounting.bad_share() == pytest.approx(2 / 100 + 20 / 400 + 1 / 50)
    assert SourceCounts().bad_share() == 0


def test_the_first_examples_of_each_reason_are_kept():
    accounting = _accounting({}, {"truncated JPEG": 7, "empty caption": 1}, {})
    assert accounting.bad == {"truncated JPEG": 7, "empty caption": 1}
    assert accounting.examples == {
        "truncated JPEG": [f"truncated JPEG {place}" for place in range(3)],
        "empty caption": ["empty caption 0"],
    }


@given(TALLIES, TALLIES)
def test_counts_survive_being_written_down_and_added(first: SourceCounts, second: SourceCounts):
    accountings = []
    for counts in (first, second):
        accounting = Accounting({"source": 50, "other": 7})
        accounting.sources["source"] = counts
        written = Accounting({"source": 50, "other": 7})
        written.restore(json.loads(json.dumps(accounting.state())))
        assert written.account() == accounting.account() and written.state() == accounting.state()
        accountings.append(written)
    both = accountings[0] + accountings[1]
    assert both["source"].drawn == first.drawn + second.drawn and both["source"].bad == first.bad + second.bad
    assert both.account()["source"]["epochs"] == (first.drawn + second.drawn) / 50
    # A copy: what is counted later does not change what was written before.
    state = both.state()
    both["source"].add_bad(Unreadable("truncated JPEG", "later"))
    assert state != both.state() and accountings[0]["source"].bad == first.bad


def test_the_state_of_clean_data_is_small():
    assert Accounting({"source": 5}).state() == {"source": {}}


def test_an_account_can_be_written_as_json():
    account = bad_documents(3, 10, 20, 1.0).account()
    assert json.loads(json.dumps(account)) == account
    assert account["laion"]["epochs"] == 0.5 and account["laion"]["bad"] == {"empty caption": 3} and account["laion"]["bad_share"] == 0.3


def test_why_documents_were_not_used_is_told_with_the_most_frequent_first():
    counts = _accounting({}, {"empty caption": 1, "truncated JPEG": 2}, {"below 5": 1, "above 9": 3000})
    counts.dropped["longer than a row"] = 20
    bad = "2 truncated JPEG (first: truncated JPEG 0, truncated JPEG 1); 1 empty caption (first: empty caption 0)"
    assert describe_bad(counts) == bad
    assert describe_unused(counts) == f"{bad}; 3,000 above 9; 20 longer than a row; 1 below 5"
    assert describe_bad(SourceCounts()) == describe_unused(SourceCounts()) == "no reason was counted"
    nameless = SourceCounts()
    nameless.add_bad(Unreadable("empty caption", ""))
    assert describe_bad(nameless) == "1 empty caption" and nameless.examples == {"empty caption": []}


def test_an_account_has_every_count_under_its_own_name():
    accounting = Accounting({"a": 50, "none": 0}, {}, {"none": []})
    counts = {"drawn": 25, "documents": 20, "images": 30, "tokens": 400, "bad_documents": 5, "missing_images": 10}
    counts |= {"loaded_images": 16, "unreadable_images": 4, "split": 3, "pieces": 7}
    accounting.sources["a"] = SourceCounts(**counts)
    accounting["a"].bad.update({"few": 1, "many": 2})
    accounting["a"].left_out.update({"small": 1, "large": 8})
    accounting["a"].dropped.update({"too many images": 1, "longer than a row": 9})
    accounting["a"].examples["few"] = ["x"]
    account = accounting.account()
    assert account["a"] == {
        "documents": 20,
        "images": 30,
        "tokens": 400,
        "drawn": 25,
        "epochs": 0.5,
        "bad": {"many": 2, "few": 1},
        "bad_share": 5 / 25 + 10 / 40 + 4 / 16,
        "left_out": {"large": 8, "small": 1},
        "split": 3,
        "pieces": 7,
        "dropped": {"longer than a row": 9, "too many images": 1},
        "examples": {"few": ["x"]},
    }
    assert [list(account["a"][name]) for name in ("bad", "left_out", "dropped")] == [
        ["many", "few"],
        ["large", "small"],
        ["longer than a row", "too many images"],
    ]
    assert account["none"]["epochs"] == 0.0
    assert accounting["a"].bad_share(0.1) == pytest.approx(0.8) and accounting["a"].bad_share(0.5) == 1.0
    assert accounting.anew().account()["a"] == Accounting({"a": 50}).account()["a"]
    account["a"]["examples"]["few"].append("y")
    assert accounting["a"].examples == {"few": ["x"]}


def test_added_counts_are_sums_and_of_examples_the_first_three_in_order():
    first = SourceCounts(drawn=1, pieces=2, examples={"a": ["1", "2"], "b": ["3"]})
    second = SourceCounts(drawn=10, pieces=20, tokens=5, examples={"a": ["4", "5"], "c": ["6"]})
    first.bad.update({"a": 1})
    second.bad.update({"a": 2, "c": 1})
    both = first + second
    assert (both.drawn, both.pieces, both.tokens, both.documents) == (11, 22, 5, 0)
    assert both.bad == {"a": 3, "c": 1} and both.examples == {"a": ["1", "2", "4"], "b": ["3"], "c": ["6"]}


def test_sources_that_a_state_does_not_name_begin_anew():
    accounting = bad_documents(bad=3, drawn=10, length=20, limit=1.0)
    accounting.restore({})
    assert accounting.state() == {"laion": {}} and accounting["laion"].bad == {}
