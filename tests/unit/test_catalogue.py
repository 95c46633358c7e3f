"""The catalogue of tasks: what a run file may change, how it is listed and documented, which layouts it reads."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from xlt_scale.cli_tasks import tasks
from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import find_task, load_catalogue
from xlt_scale.tasks.languages import LANGUAGES, Language, describe
from xlt_scale.tasks.loading import DataSource, load_examples
from xlt_scale.tasks.spec import Split, TaskKind

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
    tasks = [CATALOGUE[part] for part in task.parts] or [task]
    assert all(any(layout.split == split for layout in part.files) for part in tasks)


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


ROOT = Path(__file__).resolve().parents[2]
DECLARATIONS = [
    block
    for page in ("data.md", "tasks.md")
    for block in re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
]


@pytest.mark.parametrize("block", DECLARATIONS, ids=lambda block: block.split("]")[0].strip("["))
def test_every_documented_declaration_holds_together(block: str) -> None:
    tables = tomllib.loads(block)["tasks"]
    assert set(tables) <= set(load_catalogue(tables))


def test_every_kind_of_task_has_a_documented_declaration() -> None:
    documented = {table.get("kind") for block in DECLARATIONS for table in tomllib.loads(block)["tasks"].values()}
    assert set(get_args(TaskKind)) <= documented


def test_the_pages_name_every_task_of_published_data() -> None:
    for page in ("data.md", "tasks.md"):
        text = (ROOT / "docs" / page).read_text()
        for name, task in CATALOGUE.items():
            assert task.generator or f"`{name}`" in text or (page == "data.md" and task.parts), f"{page}: {name}"


def listing(capsys: pytest.CaptureFixture[str], name: str = "", **options: Any) -> str:
    """What `xlt-scale tasks` prints."""
    tasks(name, **{"type_": "", "kind": "", "language": "", "as_json": False} | options)
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def test_the_listing_is_filtered_by_type_and_language(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(listing(capsys, type_="commonsense", language="sw", as_json=True))
    assert [row["task"] for row in rows] == ["xcopa"]
    assert rows[0]["trained_by"] == ["siqa", "copa"]


def test_the_listing_is_filtered_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(listing(capsys, kind="bitext_mining", as_json=True))
    assert [row["task"] for row in rows] == ["bucc2018"]


def test_the_listing_fits_a_hundred_columns(capsys: pytest.CaptureFixture[str]) -> None:
    lines = listing(capsys).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in CATALOGUE)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"type_": "comonsense"}, "type 'comonsense' is unknown; did you mean 'commonsense'?"),
        ({"kind": "spam"}, "kind 'spam' is unknown; did you mean 'span'?"),
    ],
)
def test_an_unknown_filter_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], option: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        listing(capsys, **option)
    assert str(error.value) == message


def test_one_task_in_full_says_what_a_study_must_know(capsys: pytest.CaptureFixture[str]) -> None:
    shown = listing(capsys, "xcopa")
    for words in ("siqa, then copa", "CC BY 4.0", "Quechuan", "same items", "xcopa/{language}/test.{language}.jsonl"):
        assert words in shown


# One item of each layout that the development data do not have, written by hand.
QUESTION = {"id": "english-7-0", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]}
OTHER_QUESTION = {"id": "finnish-8-0", "question": "Kuka?", "answers": [{"text": "Ann", "answer_start": 0}]}
TYDIQA = {"data": [{"paragraphs": [{"context": "Ann came.", "qas": [one]}]} for one in (QUESTION, OTHER_QUESTION)]}
CSQA = {
    "answerKey": "B",
    "id": "7",
    "question": {
        "stem": "Where is milk?",
        "choices": [{"label": label, "text": text} for label, text in zip("ABCDE", "abcde", strict=True)],
    },
}
COPA = {"premise": "It rained.", "choice1": "Dry.", "choice2": "Wet.", "question": "effect", "label": 1, "idx": 0}
XNLI = "language\tgold_label\tsentence1\tsentence2\nde\tneutral\tA.\tB.\nsw\tentailment\tC.\tD.\n"
PAWSX = "id\tsentence1\tsentence2\tlabel\n1\tA.\tB.\t1\n"
ANLI = [{"uid": str(number), "context": "A.", "hypothesis": "B.", "label": "n"} for number in (1, 2, 3)]
LAYOUTS: list[tuple[str, Split, str, dict[str, Any], dict[str, Any]]] = [
    (
        "commonsenseqa",
        "dev",
        "en",
        {"commonsenseqa/dev_rand_split.jsonl": CSQA},
        {"contexts": ["Where is milk?"], "choices": [list("abcde")], "labels": [1]},
    ),
    ("tydiqa", "train", "fi", {"tydiqa/tydiqa-goldp-v1.1-train.json": TYDIQA}, {"questions": ["Kuka?"]}),
    (
        "tydiqa",
        "dev",
        "en",
        {"tydiqa/tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-english.json": TYDIQA},
        {"questions": ["Who?", "Kuka?"]},
    ),
    (
        "copa",
        "train",
        "en",
        {"copa/train.jsonl": COPA},
        {"contexts": ["It rained. What was the effect?"], "choices": [["Dry.", "Wet."]], "labels": [1]},
    ),
    ("copa", "dev", "en", {"xcopa/val-en.jsonl": COPA}, {"labels": [1]}),
    ("xcopa", "dev", "qu", {"xcopa/val-qu.jsonl": COPA}, {"labels": [1]}),
    (
        "xnli",
        "test",
        "sw",
        {"xnli/xnli.test.tsv": XNLI},
        {"texts": ["C."], "text_pairs": ["D."], "labels": [0]},
    ),
    (
        "mnli",
        "train",
        "de",
        {"mnli/multinli.train.de.tsv": "premise\thypo\tlabel\nA.\tB.\tcontradictory\n"},
        {"texts": ["A."], "labels": [2]},
    ),
    ("mnli", "train", "en", {"xnli/train-en.tsv": "A.\tB.\tneutral\n"}, {"labels": [1]}),
    ("pawsx", "test", "ko", {"pawsx/x-final/ko/test_2k.tsv": PAWSX}, {"texts": ["A."], "labels": [1]}),
    (
        "anli",
        "test",
        "en",
        {f"anli/anli_v1.0/R{number}/test.jsonl": ANLI[number - 1] for number in (1, 2, 3)},
        {"labels": [1, 1, 1]},
    ),
    ("squad", "train", "de", {"squad/train-de.json": TYDIQA}, {"questions": ["Who?", "Kuka?"]}),
    (
        "bucc2018",
        "dev",
        "de",
        {
            "bucc2018/de-en/de-en.sample.de": "de-1\tJa.\nde-2\tNein.\n",
            "bucc2018/de-en/de-en.sample.en": "en-1\tYes.\n",
            "bucc2018/de-en/de-en.sample.gold": "de-1\ten-1\n",
        },
        {"texts": ["Ja.", "Nein."], "source_texts": ["Yes."], "gold_pairs": [("de-1", "en-1")]},
    ),
    (
        "panx",
        "test",
        "sw",
        {"panx/sw/test": "sw:Ali\tB-PER\nsw:na\tO\n\n"},
        {"words": [["Ali", "na"]], "tags": [[1, 0]]},
    ),
    (
        "ccg",
        "train",
        "en",
        {"ccg/train.tsv": "Ann\tN\ncame\tS\\NP\n\n"},
        {"words": [["Ann", "came"]], "tags": [[0, 1]]},
    ),
    (
        "hellaswag",
        "dev",
        "en",
        {"hellaswag/hellaswag_val.jsonl": {"ctx": "A dog", "endings": list("abcd"), "label": 3}},
        {"contexts": ["A dog"], "labels": [3]},
    ),
]


@pytest.mark.parametrize(
    ("task", "split", "language", "files", "expected"),
    LAYOUTS,
    ids=[f"{row[0]}-{next(iter(row[3]))}" for row in LAYOUTS],
)
def test_published_layouts_are_read(
    tmp_path: Path, task: str, split: Split, language: str, files: dict[str, Any], expected: dict[str, Any]
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
    examples = load_examples(CATALOGUE[task], split, language, DataSource({"": tmp_path}, use_hub=False))
    assert {name: examples.columns[name] for name in expected} == expected


def test_test_items_without_labels_from_the_benchmarks_preparation_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "xcopa").mkdir()
    (tmp_path / "xcopa" / "test-sw.jsonl").write_text(json.dumps(COPA | {"label": 0}))
    with pytest.raises(UserError, match="no test data"):
        load_examples(CATALOGUE["xcopa"], "test", "sw", DataSource({"": tmp_path}, use_hub=False))
