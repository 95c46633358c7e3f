"""What a model has learned by heart it answers without a mistake: labels, decoding and scores are of one piece.

An answer that is off by one token, a tag on the wrong word or a candidate of another query would all train as well.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from small_data import write_small_data

from xlt_scale.config import load_run
from xlt_scale.engines.world import World
from xlt_scale.training.run import run

RUN = """
seed = 1
[model]
tokenizer = "train:300"
max_length = 96
dropout = 0.0
[model.architecture]
model_type = "xlm-roberta"
hidden_size = 64
num_hidden_layers = 2
num_attention_heads = 4
intermediate_size = 128
vocab_size = 400
max_position_embeddings = 514
type_vocab_size = 1
pad_token_id = 1
[engine]
name = "fsdp2"
[logging]
progress = "none"
tensorboard = false
[[phases]]
name = "vocabulary"
task = "mlm"
steps = 1
[[phases]]
name = "questions"
task = "squad-v2"
steps = 250
batch_size = 16
learning_rate = 2e-3
evaluate = ["squad-v2"]
[[phases]]
name = "entities"
task = "panx"
steps = 60
batch_size = 16
learning_rate = 2e-3
evaluate = ["panx"]
[[phases]]
name = "mentions"
task = "mewslix"
steps = 100
batch_size = 6
learning_rate = 2e-3
evaluate = ["mewslix"]
evaluate_languages = ["en"]
"""


@pytest.fixture(scope="module")
def learned(world: World, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Scores on what was trained on, by task."""
    folder = tmp_path_factory.mktemp("learning")
    data = write_small_data(folder / "data")
    (folder / "run.toml").write_text(RUN)
    run(load_run(folder / "run.toml", [f"output={folder / 'out'}", f"data.root={data}", f"data.cache={cache}"]))
    return json.loads((folder / "out" / "scores.json").read_text())["scores"]


def test_every_question_is_answered_or_left_unanswered_as_it_should(learned: dict[str, Any]) -> None:
    values = learned["squad-v2"]["en"]
    assert values["exact_match"] == values["has_answer_exact_match"] == values["no_answer_exact_match"] == 100.0


def test_every_word_has_its_tag(learned: dict[str, Any]) -> None:
    assert learned["panx"]["en"]["f1"] == learned["panx"]["en"]["token_accuracy"] == 100.0


def test_every_mention_finds_its_entity(learned: dict[str, Any]) -> None:
    assert learned["mewslix"]["en"]["map_at_20"] == 100.0
