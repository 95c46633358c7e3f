"""What a study is about: sizes, arms, targets and tasks from its options, the catalogue and the records."""

from pathlib import Path

import pytest
from small_records import study_table

from xlt_scale.errors import UserError
from xlt_scale.scaling.records.facts import study_facts
from xlt_scale.sizes import SIZES
from xlt_scale.study_config import StudyOptions

MEASURED = {
    "mine": {
        "model_type": "xlm-roberta-xl",
        "is_pre_norm": True,
        "is_bidirectional_decoder": False,
        "num_parameters": 123,
        "num_non_embedding_parameters": 45,
    }
}


def study(tmp_path: Path, **changes: object) -> StudyOptions:
    return StudyOptions.model_validate(study_table(tmp_path, **changes))


def test_published_sizes_have_their_exact_parameter_counts(tmp_path: Path) -> None:
    found = study_facts(study(tmp_path, sizes=[{"name": "xlmr-large"}, {"name": "xlmr-xl"}])).sizes
    assert [size.num_parameters for size in found] == [SIZES[size.name].num_parameters for size in found]


def test_all_sizes_of_xlm_r_are_one_family_whose_largest_normalise_first(tmp_path: Path) -> None:
    found = study_facts(study(tmp_path, sizes=[{"name": "xlmr-large"}, {"name": "xlmr-xl"}])).sizes
    assert [(size.family, size.is_pre_norm) for size in found] == [("XLM-R", False), ("XLM-R", True)]


def test_sizes_are_of_the_ladder_they_name_also_with_other_dimensions(tmp_path: Path) -> None:
    model = {"size": "micro-small", "architecture": {"num_hidden_layers": 3}}
    sizes = [{"name": "micro-tiny"}, {"name": "deeper", "model": model}]
    measured = {"deeper": {**MEASURED["mine"], "model_type": "xlm-roberta"}}
    for facts in (study_facts(study(tmp_path, sizes=sizes)), study_facts(study(tmp_path, sizes=sizes), measured)):
        assert [size.family for size in facts.sizes] == ["micro", "micro"]


def test_any_size_of_the_catalogue_can_be_a_size_of_a_study(tmp_path: Path) -> None:
    wanted = [name for name, size in SIZES.items() if size.hub_name]
    facts = study_facts(study(tmp_path, sizes=[{"name": name} for name in wanted]))
    assert [size.family for size in facts.sizes] == [SIZES[name].family for name in wanted]
    assert all(size.num_parameters == SIZES[size.name].num_parameters for size in facts.sizes)


def test_decoders_are_read_in_both_directions_unless_the_study_says_otherwise(tmp_path: Path) -> None:
    sizes = [
        {"name": "qwen3-0.6b"},
        {"name": "causal", "model": {"name": SIZES["qwen3-0.6b"].hub_name, "bidirectional": False}},
        {"name": "xlmr-base"},
    ]
    facts = study_facts(study(tmp_path, sizes=sizes))
    assert [size.is_bidirectional_decoder for size in facts.sizes] == [True, False, False]
    measured = {"causal": {**MEASURED["mine"], "is_bidirectional_decoder": True}}
    assert study_facts(study(tmp_path, sizes=sizes), measured).sizes[1].is_bidirectional_decoder


def test_a_checkpoint_has_the_counts_that_its_records_measured(tmp_path: Path) -> None:
    options = study(tmp_path, sizes=[{"name": "mine", "model": {"name": "somebody/model"}}])
    assert study_facts(options).sizes[0].num_parameters == 0
    assert study_facts(options, MEASURED).sizes[0].num_parameters == 123


def test_records_do_not_change_the_counts_of_published_sizes(tmp_path: Path) -> None:
    options = study(tmp_path, sizes=[{"name": "xlmr-large"}])
    measured = {"xlmr-large": MEASURED["mine"]}
    assert study_facts(options, measured).sizes[0].num_parameters == SIZES["xlmr-large"].num_parameters


def test_groups_are_the_types_of_the_first_tasks(tmp_path: Path) -> None:
    facts = study_facts(study(tmp_path))
    assert [arm.group for arm in facts.arms] == ["", "natural language inference", "question answering"]
    assert [target.group for target in facts.targets] == ["paraphrase", "question answering", "tagging", "retrieval"]


def test_a_group_that_is_given_holds(tmp_path: Path) -> None:
    arms = [{"name": "none"}, {"name": "one", "group": "mine", "phases": [{"task": "mnli"}]}]
    assert study_facts(study(tmp_path, arms=arms)).arms[1].group == "mine"


def test_an_arm_lists_the_tasks_of_its_phases_in_the_order_of_training(tmp_path: Path) -> None:
    arms = [{"name": "none"}, {"name": "two", "phases": [{"task": "squad"}, {"mixture": {"mnli": 1.0, "imdb": 1.0}}]}]
    assert study_facts(study(tmp_path, arms=arms)).arms[1].tasks == ("squad", "imdb", "mnli")


def test_languages_are_the_source_language_unless_others_are_given(tmp_path: Path) -> None:
    arms = [
        {"name": "none"},
        {"name": "one", "phases": [{"task": "mnli"}]},
        {"name": "two", "phases": [{"task": "mnli", "languages": ["de", "sw"]}]},
    ]
    assert [arm.languages for arm in study_facts(study(tmp_path, arms=arms)).arms] == [(), ("en",), ("de", "sw")]


def test_a_target_that_only_scores_trains_nothing(tmp_path: Path) -> None:
    target = study_facts(study(tmp_path)).targets[-1]
    assert (target.trained, target.languages) == ("", ())


def test_tasks_have_the_headline_and_the_version_of_their_scorer(tmp_path: Path) -> None:
    task = next(task for task in study_facts(study(tmp_path)).tasks if task.name == "xquad")
    assert (task.metric, task.scorer, task.is_parallel) == ("f1", "squad-1 (v1.1 rules)", True)


def test_an_unknown_task_is_named(tmp_path: Path) -> None:
    arms = [{"name": "none"}, {"name": "one", "phases": [{"task": "mnly"}]}]
    with pytest.raises(UserError, match="did you mean 'mnli'"):
        study_facts(study(tmp_path, arms=arms))
