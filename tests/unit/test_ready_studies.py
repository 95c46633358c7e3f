"""The studies that come with the program: each makes a grid, and its miniature asks the same question."""

import re
from functools import cache
from pathlib import Path

import pytest

from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid, design
from xlt_scale.scaling.grid.search import Choice, SearchCell
from xlt_scale.scaling.records.same_data import same_data
from xlt_scale.sizes import SIZES
from xlt_scale.study_config import ArmOptions, StudyOptions, load_study
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.languages import describe

FOLDER = Path(__file__).resolve().parents[2] / "studies"
QUESTIONS = (
    "size_beyond_10b",
    "english_vs_target_language",
    "task_specific_vs_general",
    "sequence_vs_multitask",
    "domain_alignment",
    "phang_2020",
    "size_beyond_10b_families",
)
FULL = [FOLDER / f"{name}.toml" for name in QUESTIONS]
MICRO = [FOLDER / "micro" / f"{name}.toml" for name in QUESTIONS]
ALL = [*FULL, *sorted((FOLDER / "micro").glob("*.toml"))]
every_study = pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(FOLDER)))
every_question = pytest.mark.parametrize("name", QUESTIONS)


@cache
def study_of(path: Path) -> StudyOptions:
    return load_study(path)


@cache
def grid_of(path: Path) -> StudyGrid:
    """The grid, as if a search had chosen a rate in every cell."""
    study = study_of(path)
    arms = [""] if study.search.per == "size" else [arm.name for arm in study.arms]
    cells = [
        SearchCell(size.name, arm, target.name) for size in study.sizes for arm in arms for target in study.targets
    ]
    return design(study, {cell: Choice(1e-5, {1e-5: 0.0}, 1) for cell in cells})


def both(name: str) -> tuple[StudyOptions, StudyOptions]:
    return study_of(FOLDER / f"{name}.toml"), study_of(FOLDER / "micro" / f"{name}.toml")


def of_role(grid: StudyGrid, role: str) -> list[PlannedPhase]:
    return [phase for phase in grid.phases.values() if phase.role == role]


def with_gains(study: StudyOptions) -> list[ArmOptions]:
    return [arm for arm in study.arms if arm.name != study.baseline]


def tasks_of(arm: ArmOptions) -> list[str]:
    """The tasks of an arm's phases, in the order of training."""
    found: list[str] = []
    for phase in arm.phases:
        found += [phase["task"]] if "task" in phase else list(phase["mixture"])
    return found


def test_every_file_is_one_of_the_ready_studies_or_the_quickstarts() -> None:
    assert set(FOLDER.glob("*.toml")) == set(FULL)
    assert set((FOLDER / "micro").glob("*.toml")) == {*MICRO, FOLDER / "micro" / "quickstart.toml"}


@every_study
def test_it_makes_a_grid_with_every_pair_of_seeds_of_every_arm_and_target(path: Path) -> None:
    study, grid = study_of(path), grid_of(path)
    assert grid.waiting == 0
    trained = {
        (phase.size, phase.arm, phase.target, phase.pair) for phase in of_role(grid, "target") if phase.options.trains
    }
    assert trained == {
        (size.name, arm.name, target.name, pair)
        for size in study.sizes
        for arm in study.arms
        for target in study.targets
        for pair in study.pairs(size, arm)
        if "task" in target.phase
    }


@every_study
def test_its_tasks_are_known_and_what_it_trains_can_be_trained(path: Path) -> None:
    catalogue = load_catalogue(study_of(path).run.get("tasks"))
    for phase in grid_of(path).phases.values():
        for task in phase.options.tasks:
            assert catalogue[task].is_trainable, task
            for language in phase.options.languages_of(task):
                # The micro world has training files in four of its languages (test_micro_world.py).
                known = catalogue[task].languages
                assert catalogue[task].translations or not known or language in known, f"{task} in {language}"
        for task in phase.options.evaluate:
            assert task in catalogue


@every_study
def test_a_scored_task_has_the_head_that_its_target_trains(path: Path) -> None:
    catalogue = load_catalogue(study_of(path).run.get("tasks"))
    for target in study_of(path).targets:
        heads = {catalogue[target.phase["task"]].head} if "task" in target.phase else set()
        for task in target.evaluate:
            assert not catalogue[task].is_trainable or catalogue[task].head in heads, f"{target.name}: {task}"


@every_study
def test_at_least_three_intermediate_seeds_come_before_every_target(path: Path) -> None:
    study = study_of(path)
    for size in study.sizes:
        for arm in study.arms:
            assert len({intermediate for intermediate, _ in study.pairs(size, arm)}) >= 3


@every_study
def test_groups_of_arms_and_targets_fit_the_question(path: Path) -> None:
    study = study_of(path)
    groups = [arm.group for arm in with_gains(study)]
    targets = {target.group for target in study.targets}
    assert all(groups) and all(targets)
    if study.kind in ("compare", "rank"):
        assert len(set(groups)) >= 2
    if study.kind == "alignment":
        assert set(groups) == targets
        assert all(groups.count(group) >= 2 for group in targets)
    if study.kind == "size":
        assert len(study.sizes) >= 3
        assert study.reference_size


@every_study
def test_every_arm_has_a_cell_that_shares_no_data_with_its_target(path: Path) -> None:
    study = study_of(path)
    catalogue = load_catalogue(study.run.get("tasks"))
    for arm in with_gains(study):
        usable = []
        for target in study.targets:
            trained = [target.phase["task"]] if "task" in target.phase else []
            flagged = same_data(tasks_of(arm), trained, target.evaluate, catalogue)
            usable += [target.group for task in target.evaluate if task not in flagged]
        assert usable, arm.name
        if study.kind == "alignment":
            assert set(usable) == {target.group for target in study.targets}, arm.name


@pytest.mark.parametrize("path", [FULL[2], MICRO[2]], ids=["full", "micro"])
def test_kinds_of_tasks_are_ranked_on_cells_of_several_kinds_that_no_arm_shares_data_with(path: Path) -> None:
    study = study_of(path)
    catalogue = load_catalogue(study.run.get("tasks"))
    common = []
    for target in study.targets:
        flagged = [same_data(tasks_of(arm), [target.phase["task"]], target.evaluate, catalogue) for arm in study.arms]
        common += [target.group for task in target.evaluate if not any(task in found for found in flagged)]
    assert len(set(common)) >= 3
    assert len(common) == sum(len(target.evaluate) for target in study.targets)


@every_question
def test_the_miniature_asks_the_same_question_in_the_same_way(name: str) -> None:
    full, micro = both(name)
    assert micro.kind == full.kind
    assert micro.name == f"micro_{full.name}"
    assert {arm.group for arm in with_gains(micro)} == {arm.group for arm in with_gains(full)}
    assert max(len(arm.phases) for arm in micro.arms) == max(len(arm.phases) for arm in full.arms)
    assert any("mixture" in table for arm in micro.arms for table in arm.phases) == any(
        "mixture" in table for arm in full.arms for table in arm.phases
    )
    assert any("task" not in target.phase for target in micro.targets) == any(
        "task" not in target.phase for target in full.targets
    )


def test_the_question_about_size_has_the_published_ladder_and_a_ladder_of_its_own_in_miniature() -> None:
    full, micro = both("size_beyond_10b")
    assert [size.name for size in full.sizes] == [
        name for name, size in SIZES.items() if size.family == "XLM-R" and size.hub_name
    ]
    assert len(micro.sizes) == len(full.sizes)
    counts = [SIZES[size.name].num_parameters for size in micro.sizes]
    assert counts == sorted(counts)


def test_the_question_about_families_has_ladders_of_several_sizes_two_of_them_to_beyond_ten_billion() -> None:
    full, micro = both("size_beyond_10b_families")
    ladders: dict[str, list[int]] = {}
    for size in full.sizes:
        ladders.setdefault(SIZES[size.name].family, []).append(SIZES[size.name].num_non_embedding_parameters)
    assert set(ladders) == {"XLM-R", "Qwen3", "Gemma 3", "mT5"}
    for counts in ladders.values():
        assert len(counts) >= 3 and counts == sorted(counts)
    assert sum(max(counts) > 10e9 for counts in ladders.values()) == 2
    assert len({size.model.get("architecture", {}).get("model_type", "") for size in micro.sizes}) == 2


def test_a_search_gives_every_arm_the_same_trials() -> None:
    grid = design(study_of(FOLDER / "size_beyond_10b.toml"))
    trials: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for phase in of_role(grid, "search"):
        trials.setdefault((phase.size, phase.arm), []).append((phase.target, phase.learning_rate))
    assert len(trials) == 4 * 3
    assert len({tuple(found) for found in trials.values()}) == 1


@pytest.mark.parametrize("path", [FULL[1], MICRO[1]], ids=["full", "micro"])
def test_intermediate_languages_are_compared_by_task_and_have_relatives_that_nothing_is_trained_in(path: Path) -> None:
    study = study_of(path)
    catalogue = load_catalogue()
    languages: dict[str, dict[str, set[str]]] = {}
    for arm in with_gains(study):
        (phase,) = arm.phases
        trained = set(phase.get("languages", [catalogue[phase["task"]].source_language]))
        languages.setdefault(phase["task"], {}).setdefault(arm.group, set()).update(trained)
    assert len(languages) == 2
    for groups in languages.values():
        assert len(groups["English"]) == 1
        assert len(groups["target language"]) >= 3
    scored = {code for target in study.targets for task in target.evaluate for code in catalogue[task].languages}
    if scored == set():  # the micro world's come from its files
        return
    foreign = {code for groups in languages.values() for code in groups["target language"]}
    for code in foreign:
        relatives = {other for other in scored - foreign if describe(other).family == describe(code).family}
        assert relatives, code


@pytest.mark.parametrize("path", [FULL[3], MICRO[3]], ids=["full", "micro"])
def test_a_sequence_and_a_mixture_train_the_same_tasks_and_each_task_is_once_at_each_place(path: Path) -> None:
    study = study_of(path)
    alone = {tasks_of(arm)[0] for arm in study.arms if arm.group == "one"}
    orders = [tasks_of(arm) for arm in study.arms if arm.group == "sequence"]
    for place in zip(*orders, strict=True):
        assert set(place) == alone
    for arm in study.arms:
        if arm.group == "all at once":
            assert set(tasks_of(arm)) == alone


@pytest.mark.parametrize("path", [FULL[5], MICRO[5]], ids=["full", "micro"])
def test_the_grid_of_phang_2020_has_nine_tasks_all_of_them_at_once_and_one_beside_masked_text(path: Path) -> None:
    study = study_of(path)
    single = [arm for arm in with_gains(study) if arm.group not in ("multi-task", "with MLM")]
    nine = [tasks_of(arm)[0] for arm in single]
    assert len(nine) == len(set(nine)) == 9
    (mixed,) = [arm for arm in study.arms if arm.group == "multi-task"]
    assert set(tasks_of(mixed)) == set(nine)
    assert mixed.phases[0]["mixing"] == "proportional"
    assert mixed.phases[0]["mixing_cap"] > 0
    (joint,) = [arm for arm in study.arms if arm.group == "with MLM"]
    catalogue = load_catalogue()
    assert [catalogue[task].kind for task in joint.phases[0]["joint"]] == ["masked_language_modeling"]


def test_the_targets_of_phang_2020_are_all_of_xtreme() -> None:
    scored = {task for target in study_of(FULL[5]).targets for task in target.evaluate}
    nine = {"xnli", "pawsx", "udpos", "panx", "xquad", "mlqa", "tydiqa", "bucc2018", "tatoeba"}
    assert scored == nine


def test_micro_studies_share_their_pre_training_phases() -> None:
    names: dict[str, set[str]] = {}
    for path in sorted((FOLDER / "micro").glob("*.toml")):
        for phase in of_role(grid_of(path), "pretraining"):
            names.setdefault(phase.size, set()).add(phase.name)
    assert names
    assert all(len(found) == 1 for found in names.values()), names


@every_study
def test_the_head_of_the_file_says_what_it_asks_and_how_it_is_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = text.split("\n\n", 1)[0]
    assert all(line.startswith("#") for line in head.splitlines())
    place = path.relative_to(FOLDER.parent)
    assert f"xlt-scale study run {place}" in head
    assert "xlt-scale study report" in head
    assert re.search(r"GPU hours|minutes", head), "its rough size"


def test_the_study_in_the_documentation_makes_a_grid(tmp_path: Path) -> None:
    page = (FOLDER.parent / "docs" / "studies.md").read_text(encoding="utf-8")
    (example,) = [block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "[[sizes]]" in block]
    (tmp_path / "study.toml").write_text(example, encoding="utf-8")
    assert design(load_study(tmp_path / "study.toml")).phases


@pytest.mark.parametrize("page", [FOLDER / "README.md", FOLDER.parent / "docs" / "studies.md"], ids=["readme", "docs"])
def test_the_pages_about_studies_name_files_that_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for place in re.findall(r"studies/[\w./-]+\.toml", text):
        assert (FOLDER.parent / place).is_file(), place
    for name in QUESTIONS:
        assert name in text
