"""Notes that people and the program write into one field: nothing that people wrote is lost, and ours stands there once."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mm1_ablate.tracking.notes import mark_of, merged, split

words = st.text("ab \n|*[]", max_size=20).map(lambda text: text.strip("\n"))


@given(st.lists(words.filter(bool), min_size=1, max_size=4), words, words)
def test_what_people_write_around_ours_is_kept_and_ours_stands_there_once_and_up_to_date(ours: list[str], above: str, below: str) -> None:
    ours = [f"ours {number} {text}" for number, text in enumerate(ours)]
    there = merged("", "", ours[0], 1000)
    there = "\n\n".join(part for part in (above, there, below) if part)
    for before, now in pairwise(ours):
        there = merged(there, mark_of(before), now, 1000)
    assert split(there, mark_of(ours[-1])) == (above, below) and there.count("ours ") == 1 and ours[-1] in there


def test_who_edits_our_text_keeps_the_edited_text_below_ours() -> None:
    assert merged("We said, and I doubt it", mark_of("We said"[:-1] + "!"), "We say", 100) == "We say\n\nWe said, and I doubt it"


@given(words.filter(bool), st.integers(0, 60))
def test_a_note_is_never_too_long_by_what_we_write_and_never_cuts_what_people_wrote(theirs: str, longest: int) -> None:
    whole = merged(theirs, "", "a line\n" * 20, longest)
    assert theirs in whole and len(whole) <= max(longest, len(theirs))
