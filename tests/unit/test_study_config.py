"""A study file: what it may say, and what it is told when it says something else."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.design import design
from xlt_scale.study_config import StudyOptions, load_study

ROOT = Path(__file__).resolve().parents[2]

TABLES: dict[str, Any] = {
    "name": "example",
    "question": "Does it help?",
    "seeds": {"intermediate": [1, 2], "target": [1]},
    "run": {"model": {"tokenizer": "micro", "max_length": 64}},
    "pretraining": [{"task": "micro-mlm", "steps": 10}],
    "intermediate": {"epochs": 1},
    "target": {"epochs": 1},
    "sizes": [{"name": "micro-small"}, {"name": "micro-large"}],
    "arms": [{"name": "none"}, {"name": "nli", "phases": [{"task": "micro-nli"}]}],
    "targets": [{"name": "valence", "phase": {"task": "micro-valence"}, "evaluate": ["micro-valence"]}],
}
ARM, TARGET = TABLES["arms"][1], TABLES["targets"][0]


def write(folder: Path, **changes: Any) -> Path:
    """A study file with those keys changed; None takes a key away."""
    table = {key: value for key, value in {**TABLES, **changes}.items() if value is not None}
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    return path


def refusal(path: Path, settings: tuple[str, ...] = ()) -> str:
    """What is said when the file is loaded and its grid designed; always one line."""
    with pytest.raises(UserError) as error:
        design(load_study(path, settings))
    assert "\n" not in str(error.value)
    return str(error.value)


BAD_FILES: list[tuple[dict[str, Any], list[str]]] = [
    # misspelt keys, at every depth
    ({"targts": []}, ["unknown key 'targts'", "did you mean 'targets'?"]),
    ({"seeds": {"intermediat": [1]}}, ["unknown key 'seeds.intermediat'", "did you mean 'intermediate'?"]),
    ({"search": {"learning_rate": [1e-3]}}, ["unknown key 'search.learning_rate'", "did you mean 'learning_rates'?"]),
    ({"target": {"epoch": 1}}, ["target: unknown key 'epoch'", "did you mean 'epochs'?"]),
    (
        {"arms": [TABLES["arms"][0], {**ARM, "phases": [{"tsk": "micro-nli"}]}]},
        ["arms.nli.phases: unknown key 'tsk'", "did you mean 'task'?"],
    ),
    ({"run": {"modle": {}}}, ["unknown key 'modle'", "did you mean 'model'?"]),
    # keys that the study sets
    ({"target": {"epochs": 1, "seed": 3}}, ["target.seed is set by the study; remove it"]),
    ({"targets": [{**TARGET, "phase": {"weights": "keep"}}]}, ["targets.valence.phase.weights is set by the study"]),
    ({"run": {"output": "runs/x"}}, ["run.output is the study's own; remove it"]),
    # names
    ({"kind": "sizes"}, ["kind = 'sizes'", "'size'"]),
    ({"baseline": "nothing"}, ["baseline = 'nothing' is no arm", "none"]),
    ({"reference_size": "micro-smal"}, ["reference_size = 'micro-smal' is no size", "did you mean 'micro-small'?"]),
    ({"arms": [*TABLES["arms"], ARM]}, ["arms has 'nli' twice: rename one"]),
    ({"targets": [TARGET, TARGET]}, ["targets has 'valence' twice: rename one"]),
    ({"arms": [*TABLES["arms"], {**ARM, "name": "again"}]}, ["arms 'nli' and 'again' train the same; remove one"]),
    # seeds
    ({"seeds": {"target": [1, 1]}}, ["seeds.target = [1, 1] names a seed twice"]),
    ({"seeds": {"target": []}}, ["seeds.target"]),
    ({"seeds": {"target": [1000]}}, ["seeds.target", "1000"]),
    (
        {"arms": [TABLES["arms"][0], {**ARM, "seeds": {"intermediate": [3], "target": [1]}}]},
        ["arm 'nli' has the seeds (3, 1)", "the baseline 'none' has not", "take them from the baseline's list"],
    ),
    (
        {"arms": [{"name": "none", "seeds": {"intermediate": [1], "target": [1]}}, ARM]},
        ["arm 'nli' has the seeds (2, 1)", "the baseline 'none' has not"],
    ),
    # what nothing can be made of
    ({"arms": [TABLES["arms"][0]]}, ["arms"]),
    ({"sizes": [{"name": "micro-smol"}]}, ["size 'micro-smol' is no size of the ladder", "sizes.model.name"]),
    ({"pretraining": None}, ["size 'micro-small' starts from scratch", "[[pretraining]]"]),
    ({"targets": [{**TARGET, "evaluate": []}]}, ["evaluate"]),
    ({"target": {}}, ["micro-valence", "give steps or epochs"]),
    (
        {"targets": [{**TARGET, "phase": {"task": "micro-valance"}}]},
        ["'micro-valance'", "did you mean 'micro-valence'?"],
    ),
    ({"targets": [{**TARGET, "evaluate": ["micro-valance"]}]}, ["'micro-valance'", "did you mean 'micro-valence'?"]),
    ({"question": ""}, ["question"]),
    ({"question": None}, ["'question' is missing"]),
]


@pytest.mark.parametrize(("changes", "parts"), BAD_FILES)
def test_what_does_not_fit_is_told_in_one_line_with_the_mend(
    tmp_path: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    message = refusal(write(tmp_path, **changes))
    for part in parts:
        assert part in message, message


def test_a_run_file_in_place_of_a_study_is_recognised() -> None:
    message = refusal(ROOT / "launch" / "runs" / "micro.toml")
    assert "this is a run file; start it with launch/train.py" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nowhere.toml")


def test_a_broken_file_is_named_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text("name = \n", encoding="utf-8")
    message = refusal(path)
    assert str(path) in message
    assert "line 1" in message


def test_a_setting_reaches_an_arm_by_its_name(tmp_path: Path) -> None:
    study = load_study(write(tmp_path), ["arms.nli.phases.0.task=micro-paraphrase", "seeds.target=[7]"])
    assert study.arm("nli").phases[0]["task"] == "micro-paraphrase"
    assert study.seeds.pairs == [(1, 7), (2, 7)]


def test_a_setting_of_an_unknown_arm_is_refused(tmp_path: Path) -> None:
    assert "did you mean 'nli'?" in refusal(write(tmp_path), ("arms.nly.label=x",))


def test_a_size_may_have_fewer_seeds_for_all_of_its_arms(tmp_path: Path) -> None:
    few = {"intermediate": [1], "target": [1]}
    study = load_study(write(tmp_path, sizes=[{"name": "micro-small"}, {"name": "micro-large", "seeds": few}]))
    counts = {size.name: [len(study.pairs(size, arm)) for arm in study.arms] for size in study.sizes}
    assert counts == {"micro-small": [2, 2], "micro-large": [1, 1]}


def test_an_arm_may_have_fewer_seeds_than_the_baseline(tmp_path: Path) -> None:
    few = {"intermediate": [2], "target": [1]}
    study = load_study(write(tmp_path, arms=[TABLES["arms"][0], {**ARM, "seeds": few}]))
    assert study.pairs(study.sizes[0], study.arm("nli")) == [(2, 1)]


def test_folders_are_named_after_the_study_unless_they_are_given(tmp_path: Path) -> None:
    path = write(tmp_path)
    study = load_study(path)
    assert study.folder == Path("runs/studies/example")
    assert study.pool_folder == study.folder / "phases"
    assert load_study(path, output="elsewhere").pool_folder == Path("elsewhere/phases")
    assert load_study(path, ["pool=shared"], output="elsewhere").pool_folder == Path("shared")


def test_the_resolved_file_says_the_same_again(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    (tmp_path / "resolved.toml").write_text(study.to_toml(), encoding="utf-8")
    again: StudyOptions = load_study(tmp_path / "resolved.toml")
    assert again == study
    assert design(again).phases.keys() == design(study).phases.keys()
