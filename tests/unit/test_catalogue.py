"""The catalogue of tasks: what is declared, what a run file may change, and the language table."""

from typing import Any

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import find_task, load_catalogue
from xlt_scale.tasks.languages import LANGUAGES, Language, describe

CATALOGUE = load_catalogue()
OWN = {"kind": "classification", "labels": ["yes", "no"]}


def refusal(name: str, table: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        load_catalogue({name: table})
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"task {name!r}: ")
    return message.removeprefix(f"task {name!r}: ")


def test_the_tasks_to_begin_with_are_there() -> None:
    assert {"mlm", "snli", "mnli", "xnli", "americasnli", "tatoeba"} <= set(CATALOGUE)
    assert {"micro-mlm", "micro-tlm", "micro-nli", "micro-topic", "micro-retrieval"} <= set(CATALOGUE)


def test_natural_language_inference_tasks_share_their_head_and_labels() -> None:
    tasks = [CATALOGUE[name] for name in ("snli", "mnli", "xnli", "americasnli")]
    assert {task.head for task in tasks} == {"nli"}
    assert {tuple(task.labels) for task in tasks} == {("entailment", "neutral", "contradiction")}


def test_masked_language_modelling_tasks_share_one_head() -> None:
    assert {CATALOGUE[name].head for name in ("mlm", "micro-mlm", "micro-tlm")} == {"mlm"}


def test_another_task_has_a_head_of_its_own() -> None:
    assert CATALOGUE["micro-topic"].head == "micro-topic"


def test_chance_is_one_in_the_number_of_labels() -> None:
    assert CATALOGUE["xnli"].chance == 1 / 3
    assert CATALOGUE["tatoeba"].chance is None


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_declared_language_is_in_the_language_table(name: str) -> None:
    task = CATALOGUE[name]
    assert [code for code in task.languages if code not in LANGUAGES] == []
    assert task.source_language in LANGUAGES
    assert set(task.language_codes) <= set(task.languages)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_task_has_a_place_to_find_its_scored_split(name: str) -> None:
    task = CATALOGUE[name]
    split = "train" if task.kind == "masked_language_modeling" else task.evaluation_split
    assert any(layout.split == split for layout in task.files)


def test_tatoeba_has_the_languages_of_xtreme_r_under_their_own_codes() -> None:
    task = CATALOGUE["tatoeba"]
    assert len(task.languages) == len(set(task.languages)) == 41
    assert len(set(task.language_codes.values())) == 41
    assert {code: task.language_codes[code] for code in ("fa", "zh", "sw", "et", "eu", "el")} == {
        "fa": "pes",
        "zh": "cmn",
        "sw": "swh",
        "et": "est",
        "eu": "eus",
        "el": "ell",
    }


def test_a_run_file_overrides_single_fields() -> None:
    task = load_catalogue({"xnli": {"languages": ["de", "sw"], "head": "xnli"}})["xnli"]
    assert (task.languages, task.head) == (["de", "sw"], "xnli")
    assert task.labels == CATALOGUE["xnli"].labels


def test_a_run_file_declares_a_new_task() -> None:
    layout = {"split": "train", "pattern": "own/{language}.tsv", "text": 0, "label": 1}
    task = load_catalogue({"own": OWN | {"files": [layout]}})["own"]
    assert (task.name, task.head, task.chance) == ("own", "own", 0.5)


def test_a_new_task_leaves_the_catalogue_as_it_is() -> None:
    load_catalogue({"own": OWN, "xnli": {"languages": ["de"]}})
    assert load_catalogue() == CATALOGUE


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        find_task(CATALOGUE, "xnil")
    assert str(error.value) == "task 'xnil' is unknown; did you mean 'xnli'? (`xlt-scale tasks` lists them)"


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("xnli", {"lables": ["a", "b"]}, "unknown key 'lables'; did you mean 'labels'?"),
        ("own", {}, "key 'kind' is missing"),
        ("own", {"kind": "classification"}, "task 'own': a classification task needs at least two labels"),
        (
            "own",
            OWN | {"label_aliases": {"y": "yess"}},
            "task 'own': alias 'y' stands for 'yess', which is no label of it",
        ),
        (
            "own",
            OWN | {"files": [{"split": "train", "pattern": "x"}]},
            "task 'own': every file layout of a classification task needs its label column",
        ),
        (
            "mlm",
            {"files": [{"split": "train", "pattern": "x", "text_pair": 1}]},
            "task 'mlm': join_lines is for single texts, not for pairs; remove one of them",
        ),
        (
            "own",
            OWN | {"files": [{"split": "train", "patern": "x", "label": 1}]},
            "unknown key 'files.0.patern'; did you mean 'pattern'?",
        ),
        ("xnli", {"files": 3}, "files = 3: input should be a valid list"),
    ],
)
def test_a_declaration_that_does_not_hold_together_is_refused(name: str, table: dict[str, Any], message: str) -> None:
    assert refusal(name, table) == message


def test_a_language_is_described_by_its_code() -> None:
    assert describe("sw") == Language("sw", "Swahili", "Niger-Congo", "Latin", True)
    assert describe("bzd").seen is False


def test_a_code_that_the_table_lacks_stands_for_itself() -> None:
    assert describe("xyz") == Language("xyz", "xyz", "xyz", "", None)


def test_micro_languages_say_their_family() -> None:
    assert describe("qen").family.startswith("micro ")
