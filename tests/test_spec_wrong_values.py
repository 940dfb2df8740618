"""Wrong values, each chosen by hand, put at one place of files that are right: each is told at its line with what was expected.

A case is `place | what is written there | what the message holds`. `-` in the middle: the key is left out. `ok` at the end: it is right.
A message that begins with `@` is told at the place that follows instead, such as a value that does not go together with another.
"""

from __future__ import annotations

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from mm1_ablate.evaluation.task import load_task
from mm1_ablate.spec.expansion import load_study
from mm1_ablate.spec.yaml_file import FileErrors, read_tree

EXPERIMENT = """
experiment: small
description: a small one
data:
  mixture: {captioned: 45, interleaved: 45, text: 10}
  sources:
    pairs: {type: miniature, data_type: captioned, content: alt_text, weight: 2, keep: {text_characters: {at_least: 3, at_most: 900}}}
    pages: {type: miniature, data_type: interleaved, content: interleaved, images: true}
    text: {type: text, data_type: text, files: texts/*.txt}
    tars: {type: webdataset, data_type: captioned, files: [a.tar]}
  count: tokens
  packing: {row_tokens: 128, nominal_image_tokens: 4, max_images: 16, policy: best_fit, long_documents: split, buffer_documents: 8}
  when_removed: renormalise
  max_bad_share: 0.1
model:
  image_encoder:
    type: vision_transformer
    image_size: 48
    patches_per_side: 4
    width: 96
    depth: 3
    heads: 4
    feature_layer: -1
    preparation: {source: {type: miniature, data_type: captioned, content: synthetic_captions}, steps: 3, objective: contrastive}
  connector: {type: attention_pool, image_tokens: 4, heads: 4}
  language_model:
    model_type: phi
    configuration: {hidden_size: 96, num_hidden_layers: 3, num_attention_heads: 4, num_key_value_heads: 2}
    initialisation: fan_in
    preparation: {source: {type: miniature, data_type: text, content: text}, optimizer: {type: muon}}
  sub_images: {at_least: 1, at_most: 4, overview: first}
  preparation_seed: 3
training:
  steps: 500
  batch_rows: 8
  warmup_steps: 30
  final_learning_rate: 0.1
  gradient_clip: 1.0
  precision: 32-true
  optimizer: {type: muon, learning_rate: 0.01, momentum: 0.9, rest: {type: adamw, betas: [0.9, 0.95]}}
evaluation:
  tasks: [miniature_attributes, miniature_vqa, miniature_text_qa]
  shots: [0, 4]
  items: 10
  seed: 0
  seeds: [1, 2]
  split: report
  protocol: mm1
  demonstrations: {sets: 2}
  zero_shot: {text_only: 2}
  overrides: {miniature_vqa: {items: 3, stop: [x], max_new_tokens: 2}}
  groups: {both: {tasks: [miniature_attributes, miniature_vqa], weights: {miniature_vqa: 2}}}
  losses: {text: {source: {type: miniature, data_type: text, content: text}, first: 10, documents: 5}}
"""
SWEEP = """
sweep: small
description: what matters
experiment: experiment.yaml
seeds: [0, 1]
everywhere: {training.steps: 400, model.preparation_seed: 0}
ablations:
  less: {remove: [data.mixture.text], when_removed: renormalise}
  each: {remove_each: [data.mixture.captioned, data.mixture.text]}
  other: {alter: {training.steps: 300, model.connector.type: average_pool}, description: another}
  grid:
    grid: {model.connector.image_tokens: [9, 16], size: [{training.batch_rows: 4}, {training.batch_rows: 2}]}
    except: [{training.batch_rows: 4, model.connector.image_tokens: 9}]
  named: {grid: {size: {small: {training.batch_rows: 4}, large: {training.batch_rows: 16}}}}
  chance: {seeds: [7, 8]}
  own: {experiment: experiment.yaml, alter: {training.steps: 200}}
compare: {primary: shot_4/average, metrics: [shot_4/average, text_core/average], confidence: 0.9, smallest_difference_of_interest: 2}
expect: [{arm: other, than: less, metric: shot_4/average, is: below, by: 2, because: so it was}]
resources: {gpus: 0, cpus: 2, workers: 2}
budget: {cpu_hours: 5}
"""
RECORD = """
task: colours
family: text
kind: choose
items:
  type: records
  fields: {question: text}
  choices: labels
  correct: right
  queries: {file: test.jsonl, rows: a.b, join: {more: {on: name}}, merge: false, count: 5}
prompt: "{question} {answer}"
separator: x
stop: [x]
max_new_tokens: 3
metrics: [choice_accuracy]
protocols: {openflamingo: {prompt: "Q: {question} {answer}", stop: [y]}}
"""
OF_EXPERIMENTS = r"""
experiment | - | is missing; expected text
experiment | 5 | expected text, not 5
experiment | [a] | expected text, not a list
experiment | ~ | expected text, not nothing
description | {a: 1} | expected text, not a mapping
data | - | is missing; expected a mapping with mixture, sources
data | ~ | expected a mapping with mixture, sources, not nothing
data | [] | expected a mapping with mixture, sources, not an empty list
data | text | expected a mapping with mixture, sources, not 'text'
data.mixture | - | is missing
data.mixture | {} | every weight is zero
data.mixture | {captioned: 0} | every weight is zero
data.mixture | {captions: 1} | @data.mixture.captions unknown key; expected one of captioned, synthetic_captioned, interleaved, text
data.mixture | 5 | expected a mapping
data.mixture.text | -1 | expected a number of at least 0
data.mixture.text | ten | expected a number of at least 0, not 'ten'
data.mixture.text | 10% | expected a number of at least 0, not '10%'
data.mixture.text | .nan | not a value that a number can have
data.mixture.text | nan | expected a number of at least 0
data.mixture.text | [1] | expected a number
data.mixture.text | true | expected a number of at least 0, not true
data.mixture.synthetic_captioned | 3 | no source feeds it
data.sources | {} | @data.mixture.captioned no source feeds it
data.sources | [] | expected a mapping
data.sources.pairs | ~ | expected a mapping with a 'type'
data.sources.pairs | {} | expected a mapping with a 'type'
data.sources.pairs | miniature | is missing
data.sources.pairs | {type: miniature} | is missing
data.sources.pairs.type | minature | there is no type 'minature'
data.sources.pairs.type | 5 | expected a mapping with a 'type'
data.sources.pairs.type | os.path | is not a subclass
data.sources.pairs.type | nowhere.Source | cannot import 'nowhere.Source'
data.sources.pairs.type | ..x | cannot import
data.sources.pairs.type | . | cannot import
data.sources.pairs.type | text | @data.sources.pairs unknown key
data.sources.pairs.data_type | captions | expected 'captioned', 'synthetic_captioned', 'interleaved' or 'text', not 'captions'
data.sources.pairs.data_type | - | is missing; expected 'captioned'
data.sources.pairs.content | caption | expected 'alt_text'
data.sources.pairs.weight | 0 | expected a number above 0, not 0
data.sources.pairs.weight | '' | expected a number above 0, not ''
data.sources.pairs.wieght | 2 | unknown key
data.sources.pairs.max_epochs | 0 | expected a number above 0
data.sources.pairs.max_bad_share | 2 | expected a number of at least 0 and of at most 1
data.sources.pairs.keep | 5 | expected a mapping
data.sources.pairs.keep.text_characters | 5 | expected a mapping
data.sources.pairs.keep.text_characters | {at_leat: 5} | unknown key; expected one of at_least, at_most
data.sources.pairs.keep.text_characters.at_most | 2 | 2.0 is less than at_least
data.sources.pairs.keep.colums | {} | unknown key
data.sources.pairs.keep.columns | [clip] | expected a mapping
data.sources.pairs.keep.columns | {clip: 0.3} | expected a mapping
data.sources.pages.images | 5 | expected true or false, not 5
data.sources.pages.images | nein | expected true or false, not 'nein'
data.sources.text.files | - | is missing
data.sources.text.files | 5 | expected text, or a list, not empty, of
data.sources.text.files | [] | not an empty list
data.sources.text.files | [5] | expected text
data.sources.text.files | {a: b} | expected text, or a list, not empty, of
data.sources.tars.files | [~] | expected text
data.count | token | expected 'documents', 'tokens' or 'text_tokens', not 'token'
data.packing | 4096 | expected a mapping, not 4096
data.packing.row_tokens | 0 | expected a whole number above 0
data.packing.row_tokens | 4 | cannot hold an image
data.packing.row_tokens | 1e999 | not a value that a number can have
data.packing.row_tokens | 12.5 | expected a whole number above 0, not 12.5
data.packing.row_tokens | 4k | expected a whole number above 0, not '4k'
data.packing.row_tokens | 4_096 | ok
data.packing.row_tokens | 0x100 | ok
data.packing.nominal_image_tokens | 128 | cannot hold an image
data.packing.nominal_image_tokens | 18446744073709551616 | too large
data.packing.max_images | 0 | expected a whole number above 0, or nothing, not 0
data.packing.max_images | ~ | ok
data.packing.policy | best | expected 'best_fit' or 'balanced', not 'best'
data.packing.long_documents | keep | expected 'split' or 'drop', not 'keep'
data.packing.buffer | 5 | unknown key
data.when_removed | drop | expected 'renormalise' or 'shrink'
data.when_removed | {fill_with: captions} | expected 'captioned'
data.when_removed | {fill: text} | fill
data.max_bad_share | 1.5 | of at most 1
model | - | is missing; expected a mapping with image_encoder, connector, language_model
model.image_encoder | {} | expected a mapping with a 'type'
model.image_encoder | vit | expected a mapping
model.image_encoder.type | vit | expected 'vision_transformer' or 'timm', not 'vit'
model.image_encoder.type | timm | @ unknown key
model.image_encoder.type | [timm] | expected
model.image_encoder.image_size | 0 | expected a whole number above 0
model.image_encoder.image_size | 50 | 50 is not a multiple of the patches a side, 4
model.image_encoder.image_size | 48px | expected a whole number above 0, not '48px'
model.image_encoder.image_size | [48, 48] | expected a whole number above 0, not a list
model.image_encoder.patch_size | 12 | @ declare either patch_size or patches_per_side
model.image_encoder.patches_per_side | - | @model.image_encoder declare either patch_size or patches_per_side
model.image_encoder.width | 97 | 97 is not a multiple of the 4 heads
model.image_encoder.heads | 0 | expected a whole number above 0
model.image_encoder.feature_layer | -4 | block -4 does not exist
model.image_encoder.feature_layer | 0 | expected a whole number below 0, not 0
model.image_encoder.frozen | maybe | expected true or false, not 'maybe'
model.image_encoder.frozen | 2 | expected true or false, not 2
model.image_encoder.frozen | no | ok
model.image_encoder.preparation | true | expected a mapping with source, or nothing, not true
model.image_encoder.preparation.source | - | is missing; expected a mapping with a 'type'
model.image_encoder.preparation.steps | 0 | expected a whole number above 0
model.image_encoder.preparation.objective | clip | expected 'contrastive' or 'reconstructive', not 'clip'
model.image_encoder.preparation.learning_rate | fast | expected a number above 0, not 'fast'
model.image_encoder.preparation.tokenizer | 5 | expected text
model.connector | average | there is no type 'average'
model.connector | ~ | expected a mapping with a 'type'
model.connector.type | attention_pol | did you mean 'attention_pool'?
model.connector.type | c_abstractor | @model.connector.heads unknown key
model.connector.image_tokens | 0 | expected a whole number above 0, not 0
model.connector.image_tokens | -4 | expected a whole number above 0, not -4
model.connector.image_tokens | many | expected a whole number above 0, not 'many'
model.connector.heads | 7 | the encoder's width, 96, is not a multiple of 7 heads
model.connector.frozen | 1.5 | expected true or false
model.language_model | {} | declare either name (weights) or model_type and configuration
model.language_model.name | gpt2 | declare either name (weights) or model_type and configuration
model.language_model.model_type | 5 | expected text, or nothing, not 5
model.language_model.model_type | - | declare either name (weights) or model_type and configuration
model.language_model.configuration | [] | expected a mapping
model.language_model.configuration | {hidden_size: 96, hidden_size: 97} | the key is given twice
model.language_model.configuration.hidden_size | 0 | expected a whole number above 0
model.language_model.configuration.hidden_size | '96' | expected a whole number above 0, not '96'
model.language_model.configuration.hidden_size | 96.0 | expected a whole number above 0
model.language_model.configuration.hidden_size | true | expected a whole number above 0
model.language_model.configuration.num_key_value_heads | 3 | 4 attention heads cannot share 3 heads
model.language_model.configuration.rope_theta | .inf | not a value that a number can have
model.language_model.initialisation | fan-in | expected 'transformers' or 'fan_in', not 'fan-in'
model.language_model.scale_embeddings | 4.5 | expected true or false
model.language_model.tokenizer | ~ | expected text, not nothing
model.language_model.preparation.optimizer | {} | expected a mapping with a 'type'
model.language_model.preparation.optimizer | - | is missing
model.language_model.preparation.row_tokens | 1 | expected a whole number of at least 2
model.language_model.adapter | lora | unknown key
model.sub_images | 4 | expected a mapping, or nothing, not 4
model.sub_images.at_most | 1 | expected at least 2 crops, not 1
model.sub_images.at_least | 9 | @model.sub_images.at_most expected at least 9 crops, not 4
model.sub_images.overview | middle | expected 'first', 'last' or 'none', not 'middle'
model.preparation_seed | one | expected a whole number, or nothing, not 'one'
model.preparation_seed | -1 | ok
model.conector | {} | did you mean 'connector'?
training | - | is missing; expected a mapping with steps
training.steps | - | is missing; expected a whole number above 0
training.steps | 0 | expected a whole number above 0
training.steps | 1e3 | ok
training.steps | 1e300 | expected a whole number
training.steps | 10,000 | expected a whole number above 0, not '10,000'
training.steps | 5:00 | expected a whole number above 0, not '5:00'
training.steps | 20 | @training.warmup_steps expected fewer than the 20 steps
training.steps | *steps | undefined alias
training.steps | !!int 5.5 | not a value of the YAML kind 'int'
training.batch_rows | -8 | expected a whole number above 0
training.warmup_steps | 500 | expected fewer than the 500 steps of the training
training.warmup_steps | -1 | expected a whole number of at least 0
training.final_learning_rate | 1.1 | of at most 1
training.gradient_clip | 0 | expected a number above 0, or nothing, not 0
training.precision | bf16 | expected '32-true' or 'bf16-mixed', not 'bf16'
training.precision | 16 | expected '32-true' or 'bf16-mixed', not 16
training.optimizer | sgd | expected
training.optimizer.type | sgd | expected 'adamw' or 'muon', not 'sgd'
training.optimizer.type | - | expected a mapping with a 'type'
training.optimizer.type | adamw | @training.optimizer.momentum unknown key
training.optimizer.learning_rate | 0 | expected a number above 0
training.optimizer.learning_rate | mm1 | expected a number above 0, not 'mm1'
training.optimizer.learning_rate | 1e-999 | too small to be told from 0
training.optimizer.momentum | 1 | below 1
training.optimizer.rest.betas | [0.9] | is missing
training.optimizer.rest.betas | 0.9 | expected a list of 2 entries
training.optimizer.rest.betas | [0.9, 1.0] | below 1
training.optimizer.rest.learning_rate | mm2 | expected a number above 0, or 'mm1', not 'mm2'
training.loader_threads | -1 | of at least 0
training.checkpoint_every_steps | never | expected a whole number above 0, not 'never'
training.epochs | 3 | unknown key
evaluation.tasks | - | is missing; expected a list of texts
evaluation.tasks | [] | expected at least one, and none twice
evaluation.tasks | [miniature_vqa, miniature_vqa] | none twice
evaluation.tasks | miniature_vqa | expected a list of texts, not 'miniature_vqa'
evaluation.tasks | [miniature_vqs] | did you mean 'miniature_vqa'?
evaluation.tasks | [none.yaml] | there is no file
evaluation.tasks | [5] | expected text, not 5
evaluation.tasks | [~nobody/x.yaml] | there is no file
evaluation.shots | 4 | expected a list of entries, each a whole number of at least 0, not 4
evaluation.shots | [-1] | expected a whole number of at least 0, not -1
evaluation.shots | [4, 4] | none twice
evaluation.shots | [[0]] | expected a whole number of at least 0, not a list
evaluation.items | 0 | expected a whole number above 0, or nothing
evaluation.seed | x | expected a whole number, not 'x'
evaluation.seeds | [] | expected at least one, and none twice
evaluation.split | test | expected 'report' or 'development', not 'test'
evaluation.protocol | flamingo | did you mean 'openflamingo'?
evaluation.demonstrations | per_item | expected 'per_task' or 'per_query'
evaluation.demonstrations.sets | 0 | expected a whole number above 0
evaluation.zero_shot | 2 | expected a mapping with text_only, or nothing, not 2
evaluation.zero_shot.text_only | two | expected a whole number above 0, not 'two'
evaluation.overrides | {miniature_sums: {items: 3}} | 'miniature_sums' is not evaluated
evaluation.overrides.miniature_vqa | 5 | expected a mapping, not 5
evaluation.overrides.miniature_vqa.items | 0 | expected a whole number above 0
evaluation.overrides.miniature_vqa.stop | x | expected a list of
evaluation.overrides.miniature_vqa.stop | [''] | expected text
evaluation.overrides.miniature_vqa.shots | 3 | unknown key
evaluation.groups | {miniature_vqa: {tasks: [miniature_vqa]}} | a task has this name
evaluation.groups.both.tasks | [] | expected a list, not empty, of texts
evaluation.groups.both.tasks | [both] | @ it is not among the group's tasks
evaluation.groups.both.tasks | [miniature_vqa, miniature_sums] | 'miniature_sums' is neither a task that is evaluated nor a group
evaluation.groups.both.weights | {miniature_text_qa: 2} | it is not among the group's tasks
evaluation.groups.both.weights.miniature_vqa | 0 | expected a number above 0
evaluation.losses | {text: {first: 3}} | is missing; expected a mapping with a 'type'
evaluation.losses.text.first | -1 | of at least 0
evaluation.losses.text.documents | all | expected a whole number above 0, not 'all'
evaluation.precision | float16 | expected '32-true' or 'bf16-mixed'
starts_from | nowhere.yaml | there is no experiment file
starts_from | . | is a directory
starts_from | 5 | expected the path of an experiment file, or an experiment, not 5
starts_from | [experiment.yaml] | not a list
starts_from | {} | is missing
starts_from | experiment.yaml | starts from itself
starts_from | ~nobody/x.yaml | there is no experiment file
starts_from | /dev/null | there is no experiment file
"""
OF_SWEEPS = r"""
sweep | - | @ expected
sweep | 5 | expected text, not 5
sweep | '' | expected a name
sweep | a/b | expected a name
sweep | ünïcödé | expected a name
sweep | [a] | expected text, not a list
experiment | - | is missing; expected text
experiment | 5 | expected text, not 5
experiment | experimnt.yaml | there is no experiment file
experiment | . | there is no experiment file
experiment | sweep.yaml | is a sweep; expected an experiment file
experiment | ~nobody/x.yaml | there is no experiment file
seeds | 3 | expected a list, not empty, of entries, each a whole number of at least 0, not 3
seeds | [] | not an empty list
seeds | [0, 0] | seed 0 is given more than once
seeds | [0, 0.0] | seed 0 is given more than once
seeds | [zero] | expected a whole number of at least 0, not 'zero'
seeds | [0.5] | expected a whole number of at least 0, not 0.5
seeds | [-1] | of at least 0
seeds | {a: 0} | expected a list
seeds | 0-4 | expected a list
seeds | [true] | not true
seeds | [9223372036854775808] | too large
everywhere | [] | expected a mapping, not an empty list
everywhere | ~ | expected a mapping, not nothing
everywhere | {steps: 3} | did you mean 'training.steps'?
everywhere | {training: {steps: many}} | expected a whole number above 0, not 'many'
everywhere | {'': 3} | no such path
everywhere | {training.: 3} | no such path
everywhere | {.training.steps: 3} | no such path
everywhere | {training..steps: 3} | no such path
everywhere | {training.steps.x: 3} | no such path
everywhere | {data.sources.pages.x.y.z: 3} | no such path
everywhere | {evaluation.tasks.7: miniature_vqa} | no such path
everywhere | {experiment: 5} | expected text, not 5
everywhere | {model.connector.type: avrage_pool, model.connector.image_tokens: 9} | there is no type 'avrage_pool'
everywhere | {model.preparation_seed: 0, model.image_encoder.patches_per_side: 1, model.connector.type: average_pool} | cannot be pooled
ablations | [] | expected a mapping
ablations | ~ | expected a mapping
ablations.less | ~ | expected a mapping
ablations.less | [data.mixture.text] | expected a mapping
ablations.less | {} | expected one of remove, remove_each, alter, grid or seeds
ablations.less.remove | 5 | expected text, or a list, not empty, of texts
ablations.less.remove | [] | not an empty list
ablations.less.remove | [5] | expected text, not 5
ablations.less.remove | [[data.mixture.text]] | expected text, not a list
ablations.less.remove | data.mixture.txt | did you mean 'data.mixture.text'?
ablations.less.remove | mixture.text | did you mean 'data.mixture.text'?
ablations.less.remove | training | cannot be removed; alter it instead
ablations.less.remove | training.steps | cannot be removed; alter it instead
ablations.less.remove | model.image_encoder.frozen | it is already off
ablations.less.remove | evaluation.precision | cannot be removed
ablations.less.remove | experiment | cannot be removed
ablations.less.remove | data.sources.pages | cannot be removed: no other source feeds data.mixture.interleaved
ablations.less.remove | [data.mixture.text, data.mixture.text] | is listed twice
ablations.less.remove | [data.mixture, data.mixture.text] | cannot be removed
ablations.less.remove | '' | no such path
ablations.less.when_removed | drop | expected 'renormalise' or 'shrink'
ablations.less.when_removed | {fill_with: text} | @ which is what was removed
ablations.less.when_removed | {fill_with: nothing} | expected 'captioned'
ablations.less.when | {} | unknown key
ablations.less.alter | {data.mixture.text: 3} | the same arm removes data.mixture.text
ablations.less.grid | {training.steps: [3]} | a group has one of remove, remove_each, alter, grid and seeds
ablations.less.except | [{training.steps: 3}] | this group has no grid
ablations.less.<< | shared | expected a mapping to merge
ablations.less.<< | ~ | expected a mapping to merge
ablations.less.<< | 5 | expected a mapping to merge
ablations.each.remove_each | {} | expected text, or a list, not empty, of texts
ablations.each.remove_each | [data.mixture.captioned, data.mixture.cap] | no such path
ablations.each.remove_each | [data.mixture.text, data.mixture.text] | is listed twice
ablations.other.alter | {} | expected a mapping, not empty
ablations.other.alter | [training.steps] | expected a mapping
ablations.other.alter | {training.step: 3} | did you mean 'training.steps'?
ablations.other.alter | {training.Steps: 3} | did you mean 'training.steps'?
ablations.other.alter | {training.steps : 3.5} | expected a whole number above 0, not 3.5
ablations.other.alter | {training.steps: 400} | changes nothing
ablations.other.alter | {training.steps: !foo 300} | the YAML tag '!foo' has no meaning here
ablations.other.alter | !foo {training.steps: 300} | the YAML tag '!foo' has no meaning here
ablations.other.alter | {training.steps} | expected a whole number above 0, not nothing
ablations.other.alter | {training.optimizer.type: adam, training.optimizer.betas: [0.9, 0.9]} | expected 'adamw' or 'muon', not 'adam'
ablations.other.alter | {model.connector.type: avrage_pool, model.connector.image_tokens: 9} | there is no type 'avrage_pool'
ablations.other.alter | {model.connector: ~} | expected a mapping with a 'type'
ablations.other.alter | {model.connector: []} | expected a mapping with a 'type'
ablations.other.alter | {starts_from.training.steps: 3} | has no earlier stage
ablations.other.alter | {starts_from: nowhere.yaml} | there is no experiment file
ablations.other.alter | {evaluation.tasks: [miniature_vqs]} | did you mean 'miniature_vqa'?
ablations.other.alter | {data.packing.row_tokens: 4} | cannot hold an image
ablations.other.alter | {data.mixture.txt: 3} | did you mean 'data.mixture.text'?
ablations.other.alter | {data.mixture: {}} | every weight is zero
ablations.other.alter | {data.sources.pages: {type: minature}} | there is no type 'minature'
ablations.other.seeds | [3] | a group has one of
ablations.other.experiment | nowhere.yaml | there is no experiment file
ablations.grid.grid | {} | expected a mapping, not empty
ablations.grid.grid | [training.steps] | expected a mapping
ablations.grid.grid | {training.steps: 3} | expected a list
ablations.grid.grid | {training.steps: []} | not an empty list
ablations.grid.grid | {training.steps: [300, 300]} | the same value
ablations.grid.grid | {training.step: [300]} | did you mean 'training.steps'?
ablations.grid.grid | {size: [3]} | a named axis has a list of mappings
ablations.grid.grid | {size: [{}]} | a named axis has a list of mappings
ablations.grid.grid | {training.steps: [300], size: [{training.steps: 200}]} | two axes set training.steps
ablations.grid.grid | {model.connector.type: [avrage_pool], model.connector.image_tokens: [9]} | there is no type 'avrage_pool'
ablations.grid.except | {training.batch_rows: 4} | expected a list
ablations.grid.except | [{}] | expected a mapping, not empty
ablations.grid.except | [{training.batch_row: 4}] | did you mean 'training.batch_rows'?
ablations.grid.except | [{training.batch_rows: 5}] | matches no point of the grid
ablations.grid.except | [{size: x}] | no axis of this grid sets it
ablations.named.grid | {size: {}} | expected
ablations.named.grid | {size: {small: {}}} | expected a mapping, not empty
ablations.named.grid | {size: {small: 5}} | expected a mapping
ablations.named.grid | {size: {'a,b': {training.steps: 3}}} | expected a name
ablations.named.except | [{size: smal}] | did you mean 'small'?
ablations.chance.seeds | [0] | seed 0 is one of the sweep's own
ablations.chance.seeds | [] | not an empty list
ablations.chance.seeds | [7, 7] | seed 7 is given more than once
ablations.own.experiment | sweep.yaml | is a sweep; expected an experiment file
ablations.own.experiment | [] | expected text, or nothing
ablations.baseline | {alter: {training.steps: 3000}} | taken already, by the baseline of the sweep
ablations./x | {alter: {training.steps: 3000}} | expected a name
ablations.a b, c | {alter: {training.steps: 3000}} | expected a name
compare | shot_4/average | expected a mapping
compare.primary | shot_8/average | is not evaluated: evaluation.shots has 0, 4
compare.primary | shot_4/avrage | is none of
compare.primary | accuracy | expected shot_<k>/<name>
compare.primary | 4 | expected text, not 4
compare.metrics | [] | not an empty list
compare.metrics | shot_4/average | expected a list
compare.confidence | 95 | below 1
compare.confidence | 95% | expected a number above 0 and below 1, not '95%'
compare.smallest_difference_of_interest | 0 | expected a number above 0
expect | {} | expected a list
expect | [x] | expected a mapping
expect | [{}] | is missing
expect | [{arm: othr, metric: shot_4/average, is: below, because: x}] | did you mean 'other'?
expect | [{arm: other, metric: shot_4/average, is: lower, because: x}] | expected 'above', 'below' or 'within', not 'lower'
expect | [{arm: other, metric: shot_4/average, is: within, because: x}] | points above 0 that 'within' means
expect | [{arm: other, than: other, metric: shot_4/average, is: below, because: x}] | is compared with itself
expect | [{arm: other, metric: shot_4/average, is: below, by: -1, because: x}] | of at least 0
expect | [{arm: other, metric: shot_4/average, is: below}] | is missing; expected text
expect | [{arm: 5, metric: shot_4/average, is: below, because: x}] | expected text, not 5
include | nowhere.yaml | there is no sweep file
include | sweep.yaml | includes itself
include | experiment.yaml | is an experiment; only sweeps can be included
include | [5] | expected text, not 5
include | ~nobody/x.yaml | there is no sweep file
paper | figure_4 | expected a mapping with table
paper | {table: figure_9} | figure_9
resources | 2 | expected a mapping
resources.gpus | 1.5 | only whole numbers
resources.gpus | one | expected a number of at least 0, not 'one'
resources.cpus | 0 | above 0
resources.workers | 0 | expected a whole number above 0
resources.workers | 9 | 9 workers need a row each in every step
resources.strategy | dp | expected 'ddp' or 'fsdp'
resources.nodes | 3 | cannot be dealt to 3 nodes
resources.gpu | X9000 | plans know
resources.utilisation | 40 | of at most 1
budget.gpu_hours | -1 | of at least 0
budget.gpu_hours | 5h | expected a number of at least 0, or nothing, not '5h'
budget.euros | 5 | unknown key
sedes | [1] | did you mean 'seeds'?
"""
OF_RECORDS = r"""
task | - | is missing; expected text
task | 5 | expected text, not 5
family | picture | expected 'image' or 'text', not 'picture'
family | image | @prompt a task of the image family shows {image}
kind | ask | expected 'generate', 'choose' or 'likelihood', not 'ask'
kind | generate | @metrics[0] choice_accuracy scores tasks of kind choose
items | - | is missing
items | records | is missing
items | {type: record} | there is no type 'record'
items | {type: miniature} | is missing
items.folder | 5 | expected text, not 5
items.fields | question | expected a mapping
items.fields | {qestion: text} | @prompt no item has a field 'question'
items.fields.question | text | ok
items.fields.question | "text +" | expected a Jinja expression
items.fields.question | "{{ text }}" | expected a Jinja expression
items.fields.question | 5 | expected text, not 5
items.choices | - | @items.queries
items.correct | - | @items.queries
items.correct | 0 | expected text, or nothing, not 0
items.references | [answers] | expected text, or nothing, not a list
items.image | "{0}.jpg" | {0} names no field of a row
items.image | "{}.jpg" | {} names no field of a row
items.image | "{name" | expected a name with fields in braces
items.queries | - | is missing
items.queries | [] | not an empty list
items.queries | test.jsonl | expected a mapping with file, not 'test.jsonl'
items.queries.file | - | is missing
items.queries.file | ~ | expected text, or a list, not empty, of
items.queries.rows | 5 | expected text, not 5
items.queries.rowss | a | did you mean 'rows'?
items.queries.join | [more] | expected a mapping
items.queries.join.more.on | - | is missing; expected text
items.queries.join.more.on | name[ | expected a Jinja expression
items.queries.where | "x ==" | expected a Jinja expression
items.queries.merge | both | expected true or false, not 'both'
items.queries.count | 0 | expected a whole number above 0
items.demonstrations | [{file: a.jsonl, count: many}] | expected a whole number above 0
items.demonstrations | [{files: a.jsonl}] | did you mean 'file'?
items.development | {file: a.jsonl, cuont: 5} | did you mean 'count'?
prompt | - | is missing
prompt | "{question}" | expected {answer} once, found it 0 times
prompt | "{answer} {answer}" | found it 2 times
prompt | "{question {answer}" | a '{' without its '}'
prompt | "question} {answer}" | a '}' without its '{'
prompt | "{question:5} {answer}" | expected a plain field
prompt | "{question.x} {answer}" | expected a plain field
prompt | "{image} {answer}" | one of the text family does not
prompt | 5 | expected text, not 5
prompt | "{choice} {answer}" | ok
separator | "{answer}" | may name the item's own fields only
separator | ["\n"] | expected text
stop | "\n" | expected a list
stop | [""] | expected text
stop | ["{x}"] | no item has a field 'x'
max_new_tokens | 0 | expected a whole number above 0
metrics | - | is missing
metrics | [] | not an empty list
metrics | choice_accuracy | expected a list
metrics | [accuracy] | there is no type 'accuracy'
metrics | [choice_accuracy, choice_accuracy] | occurs twice
metrics | [{type: choice_accuracy, x: 1}] | unknown key
protocols | {flamingo: {}} | unknown key; expected one of openflamingo
protocols.openflamingo.prompt | "{question}" | expected {answer} once
protocols.openflamingo.stop | ["{answer}"] | may name the item's own fields only
protocols.openflamingo.max_new_tokens | -1 | expected a whole number above 0
"""


def cases(table: str) -> list[tuple[str, str, str]]:
    return [tuple(part.strip() for part in line.split(" | ", 2)) for line in table.strip().splitlines()]  # type: ignore[misc]


def parts_of(tree: Any, place: str) -> list[str]:
    """The keys that a place names; some hold dots themselves."""
    parts = place.split(".")
    head = next((".".join(parts[:length]) for length in range(len(parts), 0, -1) if ".".join(parts[:length]) in tree), None)
    if head is None:
        return [place]
    rest = place[len(head) + 1 :]
    return [head, *(parts_of(tree[head], rest) if rest else [])]


@cache
def tree_of(text: str) -> Any:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "base.yaml"
        path.write_text(text)
        return read_tree(path)[0]


def changed(text: str, place: str, value: str) -> str:
    """A file in which something else stands at a place."""
    tree = deepcopy(tree_of(text))
    *above, key = parts_of(tree, place)
    mapping = tree
    for part in above:
        mapping = mapping[part]
    if value == "-":
        del mapping[key]
    else:
        mapping[key] = "@@"
    written = yaml.safe_dump(tree, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000)
    return written.replace("'<<': '@@'", "<<: '@@'").replace("'@@'", value)


def problems_of(path: Path, record: bool = False) -> list[Any]:
    try:
        if record:
            load_task(str(path))
        else:
            load_study(path, "nowhere")
    except FileErrors as errors:
        assert errors.problems
        return errors.problems
    return []


def check(path: Path, base: str, case: tuple[str, str, str], record: bool = False) -> None:
    place, value, message = case
    path.write_text(changed(base, place, value))
    problems = problems_of(path, record)
    told = "\n".join(map(str, problems))
    if message == "ok":
        assert not problems, told
        return
    if message.startswith("@"):
        place, _, message = message.removeprefix("@").partition(" ")
    right = [problem for problem in problems if message in f"{problem.message} ({problem.hint})"]
    assert right, f"expected {message!r}\n{told}"
    if value != "-" and case[2] == message:
        line = path.read_text().splitlines()[right[0].line - 1]
        keys = {part for part in re.split(r"[.\[\]]", place) if part} | {place}
        assert any(key in line for key in keys) or value.split("\n")[0] in line, f"told at {line!r}\n{told}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wrong_values")
    (place / "experiment.yaml").write_text(EXPERIMENT)
    for name, text in (("changed.yaml", EXPERIMENT), ("sweep.yaml", SWEEP)):
        (place / name).write_text(text)
        assert not problems_of(place / name)
    (place / "record.yaml").write_text(RECORD)
    assert not problems_of(place / "record.yaml", record=True)
    return place


@pytest.mark.parametrize("case", cases(OF_EXPERIMENTS), ids=" ".join)
def test_a_wrong_value_of_an_experiment_is_told_with_what_was_expected(folder: Path, case: tuple[str, str, str]) -> None:
    name = "experiment.yaml" if "starts from itself" in case[2] else "changed.yaml"
    try:
        check(folder / name, EXPERIMENT, case)
    finally:
        (folder / "experiment.yaml").write_text(EXPERIMENT)


@pytest.mark.parametrize("case", cases(OF_SWEEPS), ids=" ".join)
def test_a_wrong_value_of_a_sweep_is_told_with_what_was_expected(folder: Path, case: tuple[str, str, str]) -> None:
    check(folder / "sweep.yaml", SWEEP, case)


@pytest.mark.parametrize("case", cases(OF_RECORDS), ids=" ".join)
def test_a_wrong_value_of_a_task_record_is_told_with_what_was_expected(folder: Path, case: tuple[str, str, str]) -> None:
    check(folder / "record.yaml", RECORD, case, record=True)
