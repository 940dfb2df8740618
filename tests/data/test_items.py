"""Evaluation items: balanced episodes, no picture or question in both splits, demonstrations from the training pool."""

from __future__ import annotations

from collections import Counter, defaultdict
from hashlib import sha256

import pytest

from mm1_ablate.data.documents import Item
from mm1_ablate.data.items.miniature import MiniatureItems
from mm1_ablate.data.tokenizer import load_tokenizer

IMAGE_CONTENTS = ("attributes", "vqa", "fine_detail", "captions")
TEXT_CONTENTS = ("facts", "agreement", "text_qa")
CONTENTS = IMAGE_CONTENTS + TEXT_CONTENTS


def said(item: Item) -> str:
    return (
        f"{item.id} {item.group} {item.image.key if item.image else ''} {dict(item.fields)} {item.references} {item.choices} {item.correct}"
    )


@pytest.mark.parametrize("content", CONTENTS)
def test_items_are_a_pure_function_of_their_arguments(content: str):
    once, again = (MiniatureItems(content=content).open("report", 40, 3) for _ in range(2))
    assert [said(item) for item in once.queries + once.demonstrations] == [said(item) for item in again.queries + again.demonstrations]
    other = MiniatureItems(content=content).open("report", 40, 4)
    assert [said(item) for item in once.queries] != [said(item) for item in other.queries]
    more = MiniatureItems(content=content).open("report", 80, 3)
    assert [said(item) for item in more.queries[:40]] == [said(item) for item in once.queries]


def test_items_are_the_same_for_ever():
    everything = "\n".join(
        said(item) for content in CONTENTS for items in [MiniatureItems(content=content).open()] for item in items.queries
    )
    assert sha256(everything.encode()).hexdigest()[:12] == "261abe72baf8"


@pytest.mark.parametrize("content", IMAGE_CONTENTS)
def test_splits_share_no_picture_and_demonstrations_come_from_training(content: str):
    report, development = (MiniatureItems(content=content).open(split) for split in ("report", "development"))
    keys = [{item.image.key for item in items.queries if item.image} for items in (report, development)]
    assert not keys[0] & keys[1] and all(len(each) == 240 for each in keys)
    assert all("/training/" in item.image.key for item in report.demonstrations + development.demonstrations if item.image)


@pytest.mark.parametrize("content", TEXT_CONTENTS)
def test_splits_share_no_text_question(content: str):
    report, development = (
        {item.fields["context"] for item in MiniatureItems(content=content).open(split).queries} for split in ("report", "development")
    )
    if content == "agreement":
        # The subject alone may be in both; with its verb it is not.
        report, development = (
            {f"{item.fields['context']} {item.references[0]}" for item in MiniatureItems(content=content).open(split).queries}
            for split in ("report", "development")
        )
    assert not report & development


@pytest.mark.parametrize("content", TEXT_CONTENTS)
def test_choices_are_four_different_answers_of_which_one_is_right(content: str):
    queries = MiniatureItems(content=content).open().queries
    for item in queries:
        assert len(set(item.choices)) == 4 and item.choices[item.correct] == item.references[0]
    assert all(30 < places < 90 for places in Counter(item.correct for item in queries).values())


def test_attribute_episodes_are_six_attributes_in_four_formats():
    items = MiniatureItems(content="attributes").open()
    sizes = Counter(item.group for item in items.queries)
    assert len(sizes) == 24 and set(sizes.values()) == {10}
    episodes = defaultdict(set)
    for item in items.queries + items.demonstrations:
        episodes[item.group].add((item.fields["attribute"], item.fields["cue"], item.fields["separator"]))
    assert all(len(forms) == 1 for forms in episodes.values()) and len(set.union(*episodes.values())) == 24


def test_an_episode_of_visual_questions_asks_one_question():
    asked = defaultdict(set)
    items = MiniatureItems(content="vqa").open()
    for item in items.queries + items.demonstrations:
        asked[item.group].add(item.fields["question"])
    assert all(len(questions) == 1 for questions in asked.values())
    assert Counter(question for questions in asked.values() for question in questions) == dict.fromkeys(set.union(*asked.values()), 2)
    assert len(set.union(*asked.values())) == 6
    assert set(Counter(item.group for item in items.queries).values()) == {20}


@pytest.mark.parametrize("content", IMAGE_CONTENTS)
def test_every_group_has_enough_demonstrations(content: str):
    items = MiniatureItems(content=content).open()
    assert {item.group for item in items.queries} == {item.group for item in items.demonstrations}
    assert min(Counter(item.group for item in items.demonstrations).values()) >= 16


@pytest.mark.parametrize("content", ("attributes", "vqa", "fine_detail"))
def test_demonstrations_show_all_answers_about_equally_often(content: str):
    groups = defaultdict(Counter)
    for item in MiniatureItems(content=content).open().demonstrations:
        groups[item.group][item.references[0]] += 1
    for counts in groups.values():
        assert max(counts.values()) - min(counts.values()) <= 1


def test_every_word_of_an_item_is_in_the_vocabulary():
    tokenizer = load_tokenizer()
    for content in CONTENTS:
        for split in ("report", "development"):
            items = MiniatureItems(content=content).open(split)
            for item in items.queries + items.demonstrations:
                for text in (*item.fields.values(), *item.references, *item.choices):
                    tokenizer.encode(text)


def test_more_queries_than_pictures_are_refused():
    with pytest.raises(ValueError, match="2000 images"):
        MiniatureItems(content="vqa").open(count=2001)
    with pytest.raises(ValueError, match="no evaluation split"):
        MiniatureItems(content="vqa").open("training")
