"""A model with sub-images: trained, packed, asked and measured like any other, on rows that are the same as without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluated import evaluate
from tiny import TEXT, tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import experiment_identity
from mm1_ablate.data.documents import Image
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import Batch, BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.evaluate import predict
from mm1_ablate.evaluation.preflight import unaskable_tasks
from mm1_ablate.evaluation.protocols import load_tasks
from mm1_ablate.evaluation.requests import ContextOverflow, prepare_requests
from mm1_ablate.model.multimodal import build
from mm1_ablate.training.fit import fit

CHANGES = {"model.sub_images": {"overview": "last"}}
VIEWS = 5
"""Of the miniature's pictures of 48 pixels, to an encoder of 24."""


def sub_images(more: dict[str, Any] | None = None) -> Experiment:
    return tiny_experiment({**CHANGES, **(more or {})})


def first_batch(experiment: Experiment, rows: int = 4) -> Batch:
    tokenizer, image_tokens = load_tokenizer("miniature"), experiment.model.connector.image_tokens
    loader = BatchLoader(experiment.data, tokenizer, image_tokens, ImagePipeline.of(experiment.model), seed=0, steps=1, batch_rows=rows)
    ((batch,),) = list(loader)
    return batch


def test_rows_hold_the_same_documents_with_and_without_sub_images() -> None:
    whole, cut = first_batch(tiny_experiment()), first_batch(sub_images())
    assert whole.documents == cut.documents and whole.targets.tolist() == cut.targets.tolist()
    assert len(cut.images) == VIEWS * len(whole.images) > 0
    assert len(cut.tokens) == len(whole.tokens) + 4 * (VIEWS - 1) * len(whole.images)


def test_without_the_setting_nothing_changes_not_even_the_identity() -> None:
    plain, none = tiny_experiment(), tiny_experiment({"model.sub_images": None, "model.connector.frozen": False})
    assert experiment_identity(plain) == experiment_identity(none) != experiment_identity(sub_images())


@torch.no_grad()
def test_a_packed_batch_gives_the_logits_of_each_document_alone() -> None:
    experiment = sub_images()
    model, batch = build(experiment, 0).eval(), first_batch(sub_images())
    together, start, seen = model(batch), 0, 0
    for length in batch.document_lengths:
        inside = (batch.image_positions >= start) & (batch.image_positions < start + length)
        views = int(inside.sum()) // model.image_tokens
        embeddings = model.embed(batch.tokens[start : start + length])
        if views:
            tokens = torch.cat([model.encode_images(view[None])[0] for view in batch.images[seen : seen + views]])
            embeddings = embeddings.index_copy(0, batch.image_positions[inside] - start, tokens)
        alone = model.language_model(inputs_embeds=embeddings[None], use_cache=False).logits[0]
        own = (batch.supervised >= start) & (batch.supervised < start + length)
        torch.testing.assert_close(together[own], alone[batch.supervised[own] - start], atol=1e-5, rtol=1e-5)
        start, seen = start + length, seen + views
    assert seen == len(batch.images) > VIEWS


def test_every_crop_and_the_overview_get_a_gradient() -> None:
    experiment = sub_images()
    model, batch = build(experiment, 0), first_batch(sub_images())
    features = model.encoder(batch.images).detach().requires_grad_()
    batch.images = features
    torch.nn.functional.cross_entropy(model(batch), batch.targets).backward()
    assert features.grad is not None
    reached = features.grad.abs().sum((1, 2)) > 0
    assert reached.view(-1, VIEWS).all(1).any() and reached.float().mean() > 0.9


def test_a_trial_trains_and_is_judged(tmp_path: Path) -> None:
    held_out = {"facts": {"source": {**TEXT, "data_type": "text"}, "documents": 4}}
    images = {"source": tiny_experiment().data.sources["interleaved"].model_dump(), "documents": 4}
    experiment = sub_images({"evaluation.losses": {**held_out, "pages": images}, "evaluation.shots": [0, 2]})
    model = fit(experiment, 0, None, None, tmp_path, lambda progress: None)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["images"] % VIEWS == 0 < curve[-1]["images"]
    items = evaluate(model, experiment, load_tokenizer("miniature"), ImagePipeline.of(experiment.model))
    assert items["score"].notna().all() and {("pages", "loss"), ("facts", "loss")} <= set(zip(items["task"], items["metric"], strict=True))


@torch.no_grad()
def test_prompts_take_as_many_tokens_as_their_images_do() -> None:
    """Answers to images of several shapes side by side are those to each alone, whatever is kept."""
    experiment = sub_images({"evaluation.shots": [0, 2], "evaluation.tasks": ["miniature_vqa"]})
    model, tokenizer = build(experiment, 0).eval(), load_tokenizer("miniature")
    pipeline = ImagePipeline.of(experiment.model)
    embedder = PromptEmbedder(model, pipeline, tokenizer.padding, kept_bytes=4 * 32 * 4 * VIEWS * 3)
    (task,) = load_tasks(experiment.evaluation)
    prepared = prepare_requests(task, experiment.evaluation, tokenizer)
    prompts = [one.prompts[0] for one in prepared.requests[:4]]
    small = Image("small", lambda: prompts[0].images[0].load()[:20, :20])
    wide = Image("wide", lambda: prompts[1].images[0].load()[:24])
    swapped = [
        type(prompt)(tuple(other if isinstance(segment, Image) else segment for segment in prompt.segments))
        for prompt, other in zip(prompts, (small, wide, prompts[2].images[0], small), strict=True)
    ]
    embeddings, valid = embedder(swapped)
    assert [embedder.tokens_of(prompt.images[0]) for prompt in swapped] == [4, 12, 20, 4]
    assert valid.sum(1).tolist() == [prompt.length(embedder.tokens_of) for prompt in swapped]
    for row, prompt in enumerate(swapped):
        alone, _ = PromptEmbedder(model, pipeline, tokenizer.padding)([prompt])
        torch.testing.assert_close(embeddings[row][valid[row]], alone[0])
    assert len(predict(model, experiment, tokenizer, pipeline)) > 0


def test_the_context_must_hold_the_most_that_images_can_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    asked = {"evaluation.tasks": ["miniature_vqa"], "evaluation.shots": [0, 4]}
    configuration = {**tiny_experiment().model.language_model.configuration, "max_position_embeddings": 100}
    longer = {"model.language_model.configuration": configuration}
    assert not unaskable_tasks(tiny_experiment({**asked, **longer}))
    assert "where an image takes 20" in unaskable_tasks(sub_images({**asked, **longer}))[0].message
    model = build(sub_images({**asked, **longer}), 0)
    assert model.image_tokens_at_most == 20
    with pytest.raises(ContextOverflow, match="where an image takes 20"):
        predict(model, sub_images({**asked, **longer}), load_tokenizer("miniature"), ImagePipeline(24))


def test_features_of_a_frozen_encoder_are_left_alone(tmp_path: Path) -> None:
    frozen = tiny_experiment({**CHANGES, "model.image_encoder.frozen": True}, prepared=True)
    (tmp_path / "features-1").mkdir()
    assert ImagePipeline.of(frozen.model, tmp_path).features is None and ImagePipeline.of(frozen.model, tmp_path).sub_images is not None
