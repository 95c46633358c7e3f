"""Every task from its published files through training and predictions to scores, under two ranks of both engines.

With XLT_SCALE_DATA the real files are read; without it small hand-written ones of the same layouts.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, train_forked
from small_data import SMALL_MODEL, write_small_data

from xlt_scale.config import load_run
from xlt_scale.evaluation.folder_scores import score_paths
from xlt_scale.evaluation.outcomes import read_outcomes

REAL_TASKS = str(ROOT / "launch" / "runs" / "real_tasks.toml")
DATA = os.environ.get("XLT_SCALE_DATA", "")
FEW = ("evaluate_examples=12", "steps=3")
SCRIPTS = ("ara", "cmn", "eng", "hin", "kor", "rus", "swh", "tel", "tha")

# What is not among the real files: trained and scored on the hand-written ones.
EXTRA = (
    SMALL_MODEL
    + """
[[phases]]
name = "pretrain"
task = "mlm"
steps = 2
evaluate = ["tatoeba", "bucc2018"]
retrieval_layers = "all"
[[phases]]
name = "questions"
parent = "pretrain"
task = "squad-v2"
steps = 3
batch_size = 8
evaluate = ["squad-v2", "xquad"]
[[phases]]
name = "entities"
parent = "pretrain"
task = "panx"
steps = 3
evaluate = ["panx"]
[[phases]]
name = "supertags"
parent = "pretrain"
task = "ccg"
steps = 3
evaluate = ["ccg"]
[[phases]]
name = "mentions"
parent = "pretrain"
task = "mewslix"
steps = 3
batch_size = 4
evaluate = ["mewslix"]
evaluate_languages = ["en", "de", "ar"]
[[phases]]
name = "sentences"
parent = "pretrain"
task = "squad-retrieval"
steps = 3
batch_size = 8
evaluate = ["lareqa"]
"""
)


@dataclass(frozen=True)
class Done:
    """A finished run: its folder and what it printed."""

    folder: Path
    output: str

    def scores(self, phase: str) -> dict[str, Any]:
        return json.loads((self.folder / "phases" / phase / "scores.json").read_text())["scores"]


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_data(tmp_path_factory.mktemp("small-data"))


@pytest.fixture(scope="module", params=["zero3", "fsdp2"])
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def published(engine: str, small_data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """launch/runs/real_tasks.toml with few steps and items."""
    settings = [f"phases.{phase.name}.{few}" for phase in load_run(REAL_TASKS).phases for few in FEW]
    settings += ["model.architecture.hidden_size=32", "model.architecture.intermediate_size=64"]
    settings += ["model.architecture.num_hidden_layers=2", "logging.progress=plain"]
    # A tokenizer of all languages that there is text of takes two minutes.
    settings += [f"phases.pretrain.languages={list(SCRIPTS)}" if DATA else "model.tokenizer=train:300"]
    settings += [] if DATA else ["model.architecture.vocab_size=400"]
    return _run(engine, REAL_TASKS, cache, tmp_path_factory, f"data.root={DATA or small_data}", *settings)


@pytest.fixture(scope="module")
def extra(engine: str, small_data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run `EXTRA` on hand-written files."""
    path = tmp_path_factory.mktemp("extra") / "run.toml"
    path.write_text(EXTRA)
    return _run(engine, str(path), cache, tmp_path_factory, f"data.root={small_data}", "logging.progress=plain")


def _run(engine: str, run: str, cache: Path, tmp_path_factory: pytest.TempPathFactory, *settings: str) -> Done:
    folder = tmp_path_factory.mktemp(engine) / "run"
    done = train_forked(folder, cache, f"engine.name={engine}", *settings, run=run)
    assert done.code == 0, done.output[-4000:]
    return Done(folder, done.output)


PUBLISHED = {
    "inference": {"snli", "xnli", "americasnli"},
    "paraphrase": {"pawsx"},
    "choice": {"siqa", "xcopa"},
    "commonsense": {"commonsenseqa", "hellaswag", "cosmosqa"},
    "questions": {"tydiqa", "xquad", "mlqa"},
    "sentence-questions": {"qamr"},
    "parts-of-speech": {"udpos"},
    "entities": {"masakhaner"},
    "retrieval": {"lareqa", "tatoeba"},
}


@pytest.mark.parametrize("phase", PUBLISHED)
def test_a_task_is_predicted_and_scored_in_every_language_there_is(phase: str, published: Done) -> None:
    found = published.scores(phase)
    assert set(found) == PUBLISHED[phase]
    for task, by_language in found.items():
        assert by_language, task
        for language, values in by_language.items():
            assert values["num_items"] > 0
            files = list((published.folder / "phases" / phase / "predictions" / task).glob(f"*-{language}.*"))
            assert len(files) == 1, (task, language)
            is_unlabelled = task == "tydiqa" and bool(DATA)
            assert is_unlabelled or len(values) > 1, (task, language)


def test_data_without_gold_answers_are_predicted_and_said_to_be_unscored(published: Done) -> None:
    if not DATA:
        pytest.skip("the hand-written files have all their answers")
    assert published.output.count("tydiqa.goldp.ar.dev.json: the answers are blank in this copy") == 1
    assert "tydiqa: f1" not in published.output


@pytest.mark.parametrize("phase", [phase for phase in PUBLISHED if phase != "questions"])
def test_anybody_gets_the_same_numbers_from_the_files(phase: str, published: Done) -> None:
    folder = published.folder / "phases" / phase
    _check_files(folder, published.scores(phase))


@pytest.mark.parametrize("phase", ["questions", "entities", "supertags", "mentions", "sentences"])
def test_the_other_tasks_are_scored_the_same_from_their_files_too(phase: str, extra: Done) -> None:
    _check_files(extra.folder / "phases" / phase, extra.scores(phase))


def _check_files(folder: Path, scores: dict[str, dict[str, dict[str, float]]]) -> None:
    for task, by_language in scores.items():
        labels = sorted((folder / "labels" / task).iterdir())
        split = labels[0].name.partition("-")[0]
        again = score_paths(folder / "predictions" / task, folder / "labels" / task, task, "", "", split)
        for language, values in again.values[task].items():
            for metric, value in values.items():
                assert by_language[language][metric] == pytest.approx(value, abs=1e-9), (task, language, metric)


def test_what_was_right_is_kept_item_by_item(published: Done) -> None:
    folder = published.folder / "phases" / "choice"
    values = published.scores("choice")["xcopa"]["sw"]
    correct = read_outcomes(folder / "outcomes" / "xcopa" / "test-sw.safetensors")["correct"]
    assert len(correct) == values["num_items"] == 12
    assert 100 * correct.mean() == pytest.approx(values["accuracy"])


def test_all_languages_answers_are_in_one_pool(extra: Done) -> None:
    values = extra.scores("sentences")["lareqa"]
    assert len({found["num_candidates"] for found in values.values()}) == 1
    languages = len(values)
    assert values["en"]["num_candidates"] > 6 * (languages - 1)


def test_a_sweep_has_every_layer_raw_and_centred_and_marks_the_oracle(extra: Done) -> None:
    values = extra.scores("pretrain")["tatoeba"]["de"]
    layers = [values[f"accuracy@layer-{layer}"] for layer in range(3)]
    assert {f"accuracy_centred@layer-{layer}" for layer in range(3)} <= set(values)
    assert values["accuracy"] == layers[int(values["layer"])]
    assert values["accuracy_oracle"] == max(layers) == layers[int(values["oracle_layer"])]


def test_pairs_are_mined_with_a_threshold_from_dev(extra: Done) -> None:
    values = extra.scores("pretrain")["bucc2018"]["zh"]
    assert {"f1", "precision", "recall", "threshold", "f1_centred", "f1@layer-0"} <= set(values)


def test_questions_without_answer_are_told_apart(extra: Done) -> None:
    values = extra.scores("questions")["squad-v2"]["en"]
    assert {"f1", "exact_match", "best_f1", "best_f1_threshold"} <= set(values)
    assert values["best_f1"] >= values["f1"] - 1e-9


def test_tags_that_only_the_data_know_make_the_head(extra: Done) -> None:
    assert extra.scores("supertags")["ccg"]["en"].keys() >= {"token_accuracy"}


def test_a_trained_phase_says_where_its_data_came_from(extra: Done) -> None:
    facts = json.loads((extra.folder / "phases" / "questions" / "phase.json").read_text())
    assert facts["data"]["squad-v2"]["en"]["from"].endswith("train-v2.0.json")
