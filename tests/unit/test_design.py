"""A study's grid: which phases there are, which are shared, and what their names stand for."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.search import Choice, SearchCell
from xlt_scale.study_config import load_study

TABLES: dict[str, Any] = {
    "name": "small",
    "question": "does it help?",
    "run": {"model": {"tokenizer": "micro", "max_length": 64}, "engine": {"name": "fsdp2"}},
    "pretraining": [{"mixture": {"micro-mlm": 0.3, "micro-tlm": 0.7}, "steps": 10}],
    "seeds": {"intermediate": [1, 2], "target": [1, 2]},
    "intermediate": {"epochs": 1},
    "target": {"epochs": 1},
    "sizes": [{"name": "micro-small"}, {"name": "micro-large"}],
    "arms": [
        {"name": "none"},
        {"name": "nli", "phases": [{"task": "micro-nli"}]},
        {"name": "nli-paraphrase", "phases": [{"task": "micro-nli"}, {"task": "micro-paraphrase"}]},
    ],
    "targets": [
        {"name": "valence", "phase": {"task": "micro-valence"}, "evaluate": ["micro-valence"]},
        {"name": "retrieval", "evaluate": ["micro-retrieval"]},
    ],
}


def grid(folder: Path, choices: dict[SearchCell, Choice] | None = None, **changes: Any) -> StudyGrid:
    file = folder / "study.toml"
    file.write_text(tomli_w.dumps({**TABLES, **changes}))
    return design(load_study(file), choices)


def of_role(found: StudyGrid, role: str, **wanted: Any) -> list[Any]:
    phases = [phase for phase in found.phases.values() if phase.role == role]
    return [phase for phase in phases if all(getattr(phase, name) == value for name, value in wanted.items())]


def test_every_arm_and_target_has_a_phase_for_every_pair_of_seeds(tmp_path: Path) -> None:
    found = grid(tmp_path)
    for arm in ("none", "nli", "nli-paraphrase"):
        phases = of_role(found, "target", size="micro-small", arm=arm, target="valence")
        assert [phase.pair for phase in phases] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_both_arms_of_a_pair_train_the_target_with_the_same_seed(tmp_path: Path) -> None:
    found = grid(tmp_path)
    seeds = {
        arm: {phase.pair: phase.seed for phase in of_role(found, "target", arm=arm, target="valence")}
        for arm in ("none", "nli")
    }
    assert seeds["none"] == seeds["nli"]
    assert len(set(seeds["none"].values())) == 4


def test_an_intermediate_phase_that_two_arms_begin_with_is_one_phase(tmp_path: Path) -> None:
    found = grid(tmp_path)
    nli = [phase for phase in of_role(found, "intermediate", size="micro-small") if phase.options.task == "micro-nli"]
    assert len(nli) == 2  # one for each intermediate seed
    second = [phase for phase in of_role(found, "intermediate") if phase.options.task == "micro-paraphrase"]
    assert {phase.parent for phase in second if phase.size == "micro-small"} == {phase.name for phase in nli}


def test_a_target_without_training_is_scored_once_for_each_encoder(tmp_path: Path) -> None:
    found = grid(tmp_path)
    assert len(of_role(found, "target", size="micro-small", arm="none", target="retrieval")) == 1
    pairs = [phase.pair for phase in of_role(found, "target", size="micro-small", arm="nli", target="retrieval")]
    assert pairs == [(1, -1), (2, -1)]


def test_parents_come_before_their_children(tmp_path: Path) -> None:
    names = list(grid(tmp_path).phases)
    for phase in grid(tmp_path).phases.values():
        assert not phase.parent or names.index(phase.parent) < names.index(phase.name)


def test_weights_of_target_phases_are_dropped_and_those_of_encoders_kept(tmp_path: Path) -> None:
    for phase in grid(tmp_path).phases.values():
        assert phase.options.weights == ("drop" if phase.role == "target" else "keep")


def names(found: StudyGrid, role: str) -> set[str]:
    return {phase.name for phase in of_role(found, role)}


def test_a_changed_target_leaves_the_names_of_what_comes_before_it(tmp_path: Path) -> None:
    before, after = grid(tmp_path), grid(tmp_path, target={"epochs": 2})
    assert names(before, "intermediate") == names(after, "intermediate")
    retrieval = {phase.name for phase in of_role(before, "target", target="retrieval")}
    assert names(before, "target") & names(after, "target") == retrieval


def test_a_changed_intermediate_phase_renames_everything_that_comes_from_it(tmp_path: Path) -> None:
    before, after = grid(tmp_path), grid(tmp_path, intermediate={"epochs": 1, "learning_rate": 1e-4})
    assert names(before, "pretraining") == names(after, "pretraining")
    assert not names(before, "intermediate") & names(after, "intermediate")
    of_none = {phase.name for phase in of_role(before, "target", arm="none")}
    assert names(before, "target") & names(after, "target") == of_none


def test_how_a_phase_is_scored_or_spread_over_devices_is_not_in_its_name(tmp_path: Path) -> None:
    run = {**TABLES["run"], "engine": {"name": "zero3", "max_tokens_per_micro_batch": 100}}
    other = grid(tmp_path, run=run, target={"epochs": 1, "evaluate_languages": ["qea"]})
    assert names(other, "target") == names(grid(tmp_path), "target")


def test_a_size_has_its_own_hyper_parameters(tmp_path: Path) -> None:
    sizes = [{"name": "micro-small"}, {"name": "micro-large", "target": {"learning_rate": 3e-4}}]
    found = grid(tmp_path, sizes=sizes)
    rates = {phase.size: phase.options.learning_rate for phase in of_role(found, "target", target="valence")}
    assert rates == {"micro-small": 1e-5, "micro-large": 3e-4}


def test_a_search_has_as_many_trials_for_every_arm_and_holds_the_targets_back(tmp_path: Path) -> None:
    found = grid(tmp_path, search={"learning_rates": [1e-4, 1e-3], "seeds": [901, 902]})
    trials = [len(of_role(found, "search", size="micro-small", arm=arm)) for arm in ("none", "nli", "nli-paraphrase")]
    assert trials == [4, 4, 4]
    assert not of_role(found, "target", target="valence")
    assert found.waiting == 2 * 3 * 4
    assert all(phase.options.evaluate_split == "dev" for phase in of_role(found, "search"))


def test_a_chosen_learning_rate_names_the_targets(tmp_path: Path) -> None:
    chosen = {SearchCell("micro-small", "nli", "valence"): Choice(1e-3, {1e-3: 80.0}, 2)}
    found = grid(tmp_path, chosen, search={"learning_rates": [1e-4, 1e-3]})
    phases = of_role(found, "target", target="valence")
    assert {(phase.size, phase.arm) for phase in phases} == {("micro-small", "nli")}
    assert {phase.options.learning_rate for phase in phases} == {1e-3}


def test_a_checkpoint_stands_in_for_pre_training(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "phase.json").write_text('{"hash": "abc", "checkpoint": "result"}')
    sizes = [{"name": "own", "checkpoint": str(tmp_path / "pretrain"), "model": {"size": "micro-small"}}]
    found = grid(tmp_path, sizes=sizes)
    assert not of_role(found, "pretraining")
    assert {phase.options.parent for phase in of_role(found, "target", arm="none")} == {str(tmp_path / "pretrain")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": [TABLES["arms"][0], {"name": "a", "phases": [{"task": "micro-nly"}]}]}, "did you mean 'micro-nli'"),
        ({"arms": [*TABLES["arms"], {"name": "twin", "phases": [{"task": "micro-nli"}]}]}, "train the same"),
        ({"sizes": [{"name": "huge"}]}, "'huge' is no size of the ladder; give sizes.model.name"),
        ({"pretraining": []}, "starts from scratch; add [[pretraining]] phases"),
        ({"sizes": [{"name": "x", "checkpoint": "nowhere", "model": {"size": "micro-small"}}]}, "no finished phase"),
        ({"intermediate": {"epochs": -1}}, "epochs = -1"),
        ({"target": {}}, "phase 'valence' trains ['micro-valence']: give steps or epochs"),
        (
            {"sizes": [{"name": "a", "model": {"size": "micro-small"}}, {"name": "micro-small"}]},
            "sizes 'a' and 'micro-small' are the same model; remove one",
        ),
        (
            {"targets": [*TABLES["targets"], {**TABLES["targets"][0], "name": "again"}]},
            "make them one target that has both in evaluate",
        ),
        ({"targets": [{"name": "valence", "evaluate": ["micro-valence"]}]}, "'micro-valence' needs a trained head"),
    ],
)
def test_what_cannot_be_a_grid_is_refused_with_the_mend(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        grid(tmp_path, **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
