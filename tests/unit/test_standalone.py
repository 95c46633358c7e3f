"""The run that launch/evaluate.py makes of a model: its options, before anything is loaded."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import ALONE, save, scrambled
from small_models import plan_for

from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.config import RunOptions
from xlt_scale.errors import UserError
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.training import standalone
from xlt_scale.training.standalone import evaluation_run

NLI = HeadSpec("nli", "classification", num_labels=3)
LABELS = ["entailment", "neutral", "contradiction"]

Make = Callable[..., RunOptions]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The run of a checkpoint with a head of natural language inference, whose manifest says `facts` as well."""

    def make(
        *tasks: str,
        labels: list[str] = LABELS,
        settings: tuple[str, ...] = (),
        run_file: Mapping[str, Any] | None = None,
        head: str = "nli",
        **facts: Any,
    ) -> RunOptions:
        spec = HeadSpec(head, "classification", num_labels=3)
        heads = [vars(spec) | {"labels": labels}]
        folder = tmp_path / "model"
        if not folder.exists():
            save(scrambled(plan_for("xlm-roberta"), [spec]), [spec], folder, heads=heads, **facts)
            (folder / "tokenizer").mkdir()
            (folder / "tokenizer" / "tokenizer.json").write_text("{}")
        return evaluation_run(str(folder), list(tasks), tmp_path / "out", settings, run_file)

    return make


def test_it_has_one_phase_that_only_scores(make: Make, tmp_path: Path) -> None:
    (phase,) = make("xnli", "tatoeba").phases
    assert (phase.name, phase.tasks, phase.evaluate) == ("evaluate", [], ["xnli", "tatoeba"])
    assert Path(phase.parent) == tmp_path / "model"


def test_the_model_is_described_by_what_the_checkpoint_says(make: Make) -> None:
    name = Path(make("xnli").model.name)
    assert json.loads((name / "config.json").read_text())["hidden_size"] == 48
    assert (name / "tokenizer.json").read_text() == "{}"


def test_sequences_are_as_long_as_in_training(make: Make) -> None:
    options = make("xnli", identity={"max_length": 96, "phase": {"max_length": 64}})
    assert options.model.max_length == 96
    assert options.phases[0].max_length == 64


def test_settings_hold_before_what_the_checkpoint_says(make: Make) -> None:
    settings = ("model.max_length=70", "phases.evaluate.retrieval_layers=all", "engine.precision=bf16")
    options = make("xnli", settings=settings, identity={"max_length": 96})
    assert options.model.max_length == 70
    assert options.phases[0].retrieval_layers == "all"
    assert options.engine.precision == "bf16"


def test_tasks_of_the_users_own_can_be_scored(make: Make) -> None:
    mine = {
        "kind": "classification",
        "labels": LABELS,
        "head": "nli",
        "files": [{"split": "test", "pattern": "mine.tsv", "text": 0, "label": 1}],
    }
    options = make("mine", run_file={"tasks": {"mine": mine}, "data": {"root": "there"}, "phases": []})
    assert options.tasks["mine"]["labels"] == LABELS
    assert options.data.root == "there"
    assert len(options.phases) == 1


def test_a_task_can_be_changed_by_a_setting(make: Make) -> None:
    options = make("xnli", settings=("tasks.xnli.max_length=50",))
    assert options.tasks == {"xnli": {"max_length": 50}}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABELS, {}),
        (["contradiction", "entailment", "neutral"], {"labels": ["contradiction", "entailment", "neutral"]}),
        (["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], {"labels": ["contradiction", "neutral", "entailment"]}),
    ],
)
def test_the_order_of_the_heads_classes_is_found_by_name(
    make: Make, labels: list[str], expected: dict[str, Any]
) -> None:
    assert make("xnli", labels=labels).tasks.get("xnli", {}) == expected


def test_other_spellings_of_labels_can_be_declared(make: Make) -> None:
    spelt = tuple(f"tasks.xnli.label_aliases.{label[:3]}={label}" for label in LABELS)
    options = make("xnli", labels=["con", "ent", "neu"], settings=spelt)
    assert options.tasks["xnli"]["labels"] == ["contradiction", "entailment", "neutral"]


def test_classes_without_names_are_taken_in_the_tasks_order_and_it_is_said(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make("xnli", labels=[]).tasks == {}
    assert "does not name its classes; task xnli takes them as entailment, neutral, contra" in capsys.readouterr().out


def test_an_imported_head_is_called_after_its_kind(make: Make) -> None:
    assert make("xnli", head="classification").tasks == {"xnli": {"head": "classification"}}


def test_labels_that_do_not_fit_are_refused(make: Make) -> None:
    with pytest.raises(UserError, match="knows the labels yes, no, perhaps, task 'xnli' has entailment, neutral"):
        make("xnli", labels=["yes", "no", "perhaps"])


def test_a_checkpoint_that_does_not_say_its_model_is_refused(make: Make, tmp_path: Path) -> None:
    values = iter([("param/x", torch.zeros(1))])
    write_checkpoint(ALONE, tmp_path / "model", {"param/x": (1,)}, {"param/x": (0, 1)}, values, {})
    with pytest.raises(UserError, match="does not say which model it is of"):
        make("xnli")


def test_an_output_that_is_a_file_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match=r"--output .* cannot be made: .*; choose another folder"):
        make("xnli")


def test_a_hub_name_is_taken_at_the_revision_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(name: str, revision: str) -> Path:
        asked.append((name, revision))
        raise UserError("no network here")

    monkeypatch.setattr(standalone, "pretrained_folder", fetch)
    with pytest.raises(UserError, match="no network here"):
        evaluation_run("some/model", ["tatoeba"], tmp_path / "out", ["model.revision=abc123"])
    assert asked == [("some/model", "abc123")]
