"""Examples from hub data sets, read through `datasets` from local folders of the hub's layout, without a network."""

import json
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import (
    BitextExamples,
    ChoiceExamples,
    QuestionExamples,
    RankingExamples,
    TaggedExamples,
    TextExamples,
)
from xlt_scale.tasks.hub import resolved_revision
from xlt_scale.tasks.loading import DataSource, available_languages, find_origin, load_examples
from xlt_scale.tasks.spec import Split, TaskSpec

HUB = DataSource({}, use_files=False)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a cache of the test's own. The libraries have read the environment when they were imported."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def make_dataset(folder: Path, configs: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Write a data set of {configuration: {split: rows}} as the hub lays it out; the name under which it is loaded."""
    card = ["---", "configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            card += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
            path = folder / config / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return str(folder)


def row(premise: str, hypothesis: str, label: int) -> dict[str, Any]:
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


def load(task: str, dataset: str, split: Split, language: str, **hub_fields: str) -> TextExamples:
    """Load a catalogue task whose hub data set is the given one."""
    spec = load_catalogue()[task]
    hub = spec.hub[0].model_copy(update={"dataset": dataset, **hub_fields})
    examples = load_examples(spec.model_copy(update={"hub": [hub]}), split, language, HUB)
    assert isinstance(examples, TextExamples)
    return examples


def refusal(task: str, dataset: str, split: Split, language: str, **hub_fields: str) -> str:
    with pytest.raises(UserError) as error:
        load(task, dataset, split, language, **hub_fields)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_dataset_with_one_configuration_gives_its_split_by_our_name(tmp_path: Path) -> None:
    name = make_dataset(
        tmp_path / "snli",
        {
            "plain_text": {
                "train": [row("a", "b", 0), row("c", "d", 2)],
                "validation": [row("e", "f", 1), row("g", "h", -1)],
            }
        },
    )
    train, dev = load("snli", name, "train", "en"), load("snli", name, "dev", "en")
    assert (train.texts, train.text_pairs, train.labels) == (["a", "c"], ["b", "d"], [0, 2])
    assert (dev.texts, dev.labels, dev.num_dropped) == (["e"], [1], 1)


def test_a_dataset_with_a_configuration_per_language_gives_the_language(tmp_path: Path) -> None:
    name = make_dataset(
        tmp_path / "xnli",
        {
            "de": {"test": [row("Hallo", "Ja", 1)], "validation": [row("v", "w", 0)]},
            "sw": {"test": [row("Habari", "Ndiyo", 2)]},
        },
    )
    assert load("xnli", name, "test", "de").texts == ["Hallo"]
    assert load("xnli", name, "test", "sw").labels == [2]
    assert load("xnli", name, "dev", "de").text_pairs == ["w"]


def test_the_configuration_is_named_with_the_code_of_the_published_files(tmp_path: Path) -> None:
    name = make_dataset(tmp_path / "tatoeba", {"deu-eng": {"test": [{"sentence1": "Ja", "sentence2": "Yes"}]}})
    examples = load("tatoeba", name, "test", "de")
    assert (examples.texts, examples.text_pairs, examples.labels) == (["Ja"], ["Yes"], None)


def test_class_labels_are_read_in_the_order_of_the_dataset_card(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, 0]})
    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    (tmp_path / "snli").mkdir()
    table.cast_column("label", names).to_parquet(tmp_path / "snli" / "train.parquet")
    assert load("snli", str(tmp_path / "snli"), "train", "en").labels == [2, 0]


def test_files_go_before_the_hub(tmp_path: Path) -> None:
    (tmp_path / "snli").mkdir()
    (tmp_path / "snli" / "train.tsv").write_text("sentence1\tsentence2\tgold_label\nfrom a file\tb\tneutral\n")
    spec = load_catalogue()["snli"]
    assert load_examples(spec, "train", "en", DataSource({"": tmp_path})).columns["texts"] == ["from a file"]


def test_a_label_outside_the_declared_set_is_named(tmp_path: Path) -> None:
    name = make_dataset(tmp_path / "snli", {"plain_text": {"train": [row("a", "b", 0), row("a", "b", 3)]}})
    assert refusal("snli", name, "train", "en").startswith(
        f"hub dataset {name}, row 2: label '3' is not one of entailment, neutral, contradiction; "
    )


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    name = make_dataset(tmp_path / "snli", {"plain_text": {"train": [row("a", "b", 0)]}})
    assert refusal("snli", name, "train", "en", text="premis") == (
        f"hub dataset {name}: no column 'premis'; did you mean 'premise'?"
    )


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    name = make_dataset(tmp_path / "snli", {"plain_text": {"train": [row("a", "b", 0)]}})
    assert refusal("snli", name, "dev", "en") == f"hub dataset {name}: no split 'validation'; valid: train"


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    name = make_dataset(tmp_path / "xnli", {"de": {"test": [row("a", "b", 1)]}, "sw": {"test": [row("a", "b", 1)]}})
    message = refusal("xnli", name, "test", "fr")
    assert message.startswith(f"hub dataset {name!r} (fr) cannot be loaded: ")
    assert "de" in message and "sw" in message


def test_a_missing_dataset_is_one_line_with_the_mend() -> None:
    message = refusal("snli", "nobody/there-is-no-such-data-set", "train", "en")
    assert message.startswith("hub dataset 'nobody/there-is-no-such-data-set' cannot be loaded: ")
    assert message.endswith(
        "and HF_HUB_OFFLINE is set; run xlt-scale prefetch RUN.toml on a node with a network, or put its published "
        "files under data.root"
    )


def test_the_hub_is_not_asked_when_files_alone_may_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no train data in language 'en'; looked for snli/"):
        load_examples(load_catalogue()["snli"], "train", "en", DataSource({"": tmp_path}, use_hub=False))


# Other kinds of tasks


def own(kind: str, dataset: str, hub: dict[str, Any], **fields: Any) -> TaskSpec:
    """A task of that kind on a hub data set, whose split "validation" is our dev."""
    layout = {"dataset": dataset, "splits": {"train": "train", "dev": "validation"}, **hub}
    return load_catalogue({"own": {"kind": kind, "languages": ["en"], "hub": [layout], **fields}})["own"]


def read(spec: TaskSpec, split: Split = "dev", language: str = "en") -> Any:
    return load_examples(spec, split, language, HUB)


def make_parquet(folder: Path, columns: dict[str, list[Any]], features: dict[str, Any]) -> str:
    """Write the split "validation" of a data set in the hub's Parquet form, with features."""
    import datasets

    folder.mkdir(parents=True)
    table = datasets.Dataset.from_dict(columns)
    table = table.cast(datasets.Features({**table.features, **features}))
    table.to_parquet(folder / "validation-00000-of-00001.parquet")
    return str(folder)


def test_questions_with_answers_as_squad_has_them_on_the_hub(tmp_path: Path) -> None:
    rows = {
        "id": "a",
        "question": "Wie?",
        "context": "Es ist grün.",
        "answers": {"text": ["grün"], "answer_start": [7]},
    }
    name = make_dataset(tmp_path / "squad", {"plain_text": {"validation": [rows]}})
    columns = {"id": "id", "text": "question", "text_pair": "context", "answers": "answers"}
    assert read(own("span", name, columns)) == QuestionExamples(["a"], ["Wie?"], ["Es ist grün."], [[("grün", 7)]])
    found = read(own("dual_encoding", name, columns))
    assert isinstance(found, RankingExamples)
    assert (found.queries, found.candidates, found.gold) == (["Wie?"], ["Es ist grün."], [["en:0:0"]])


def test_an_answer_on_the_hub_that_is_not_in_its_passage_is_named(tmp_path: Path) -> None:
    rows = {"id": "a", "question": "Wie?", "context": "Es ist grün.", "answers": {"text": ["rot"], "answer_start": [7]}}
    name = make_dataset(tmp_path / "squad", {"plain_text": {"validation": [rows]}})
    with pytest.raises(UserError) as error:
        read(own("span", name, {"id": "id", "text": "question", "text_pair": "context", "answers": "answers"}))
    assert str(error.value) == (
        f"hub dataset {name}, row 1, question 'a': the answer 'rot' is not in the passage; "
        "mend the file, or drop the question"
    )


def test_choices_in_a_table_inside_the_row(tmp_path: Path) -> None:
    rows = {"question": "Who?", "choices": {"label": ["A", "B"], "text": ["Ada", "Bob"]}, "answerKey": "B"}
    name = make_dataset(tmp_path / "csqa", {"default": {"validation": [rows]}})
    columns = {"text": "question", "choices": "choices.text", "label": "answerKey"}
    found = read(own("multiple_choice", name, columns, labels=["A", "B"]))
    assert found == ChoiceExamples(["Who?"], [["Ada", "Bob"]], [1])


def test_choices_in_columns_of_their_own(tmp_path: Path) -> None:
    rows = [{"premise": "Rain.", "question": "effect", "c1": "wet", "c2": "dry", "label": 0}]
    name = make_dataset(tmp_path / "copa", {"default": {"validation": rows}})
    columns = {"text": ["premise", "question"], "choices": ["c1", "c2"], "values": {"question": {"effect": "So?"}}}
    assert read(own("multiple_choice", name, columns)) == ChoiceExamples(["Rain. So?"], [["wet", "dry"]], [0])


def tagged(tmp_path: Path, names: list[str]) -> str:
    import datasets

    return make_parquet(
        tmp_path / "ner",
        {"tokens": [["Ada", "saw"], []], "ner_tags": [[1, 0], []]},
        {"ner_tags": datasets.List(datasets.ClassLabel(names=names))},
    )


def test_tags_are_read_by_the_names_of_the_classes(tmp_path: Path) -> None:
    name = tagged(tmp_path, ["O", "B-PER"])
    spec = own("tagging", name, {"words": "tokens", "tags": "ner_tags"}, labels=["B-PER", "O"])
    assert read(spec) == TaggedExamples([["Ada", "saw"]], [[0, 1]], num_dropped=1)


def test_tags_whose_names_the_task_does_not_know_are_refused_with_the_mend(tmp_path: Path) -> None:
    name = tagged(tmp_path, ["none", "person"])
    columns = {"words": "tokens", "tags": "ner_tags"}
    with pytest.raises(UserError) as error:
        read(own("tagging", name, columns, labels=["O", "B-PER"]))
    assert str(error.value) == (
        f"hub dataset {name}: its tags are named none, person, none of which is one of O, B-PER; "
        "declare them in [tasks.own] labels or label_aliases"
    )
    aliases = {"none": "O", "person": "B-PER"}
    assert read(own("tagging", name, columns, labels=["O", "B-PER"], label_aliases=aliases)).tags == [[1, 0]]


def test_a_single_tag_that_the_task_does_not_know_is_named(tmp_path: Path) -> None:
    name = tagged(tmp_path, ["O", "B-PER"])
    with pytest.raises(
        UserError, match=r"row 1: tag 'B-PER' of word 1 of the sentence, 'Ada', is not one of O, B-LOC;"
    ):
        read(own("tagging", name, {"words": "tokens", "tags": "ner_tags"}, labels=["O", "B-LOC"]))


def test_classes_are_read_by_their_names_where_these_are_the_labels(tmp_path: Path) -> None:
    import datasets

    name = make_parquet(
        tmp_path / "own", {"text": ["a", "b"], "label": [0, -1]}, {"label": datasets.ClassLabel(names=["good", "bad"])}
    )
    found = read(own("classification", name, {}, labels=["bad", "good"], unlabelled=["-1"]))
    assert found == TextExamples(["a"], None, [1], num_dropped=1)


def test_real_numbers(tmp_path: Path) -> None:
    name = make_dataset(tmp_path / "sts", {"default": {"validation": [{"s": "a", "t": "b", "score": 2.5}]}})
    found = read(own("regression", name, {"text": "s", "text_pair": "t", "label": "score"}))
    assert found == TextExamples(["a"], ["b"], [2.5])


def test_bitext(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"de": "ja", "en": "yes"}, {"de": "nein", "en": None}]
    name = make_dataset(tmp_path / "bucc", {"default": {"validation": rows}})
    found = read(own("bitext_mining", name, {"text": "de", "text_pair": "en"}))
    assert found == BitextExamples(["0", "1"], ["ja", "nein"], ["0"], ["yes"], [("0", "0")])


def test_rows_of_one_language_are_told_by_the_beginning_of_their_id(tmp_path: Path) -> None:
    rows = [{"id": "english-1", "text": "a"}, {"id": "finnish-1", "text": "b"}, {"id": "english-2", "text": "c"}]
    name = make_dataset(tmp_path / "tydiqa", {"default": {"validation": rows}})
    hub = {"where_prefix": {"id": "{language}-"}, "language_codes": {"en": "english", "fi": "finnish"}}
    spec = own("masked_language_modeling", name, hub, languages=["en", "fi"])
    assert [read(spec, "dev", language).texts for language in ("en", "fi")] == [["a", "c"], ["b"]]
    assert available_languages(spec, "dev", HUB) == ["en", "fi"]


def test_a_data_set_that_names_no_language_is_of_the_source_language_alone(tmp_path: Path) -> None:
    name = make_dataset(tmp_path / "own", {"default": {"validation": [{"text": "a"}]}})
    spec = own("masked_language_modeling", name, {}, languages=["en", "fi"])
    assert available_languages(spec, "dev", HUB) == ["en"]
    with pytest.raises(
        UserError, match="no dev data in language 'fi'; no layout of its files or of the hub is of that"
    ):
        read(spec, "dev", "fi")


def test_splits_may_be_read_one_after_another(tmp_path: Path) -> None:
    splits: dict[str, list[dict[str, Any]]] = {
        f"train_r{number}": [{"text": f"round {number}"}] for number in (1, 2, 3)
    }
    name = make_dataset(tmp_path / "anli", {"plain_text": splits})
    spec = own("masked_language_modeling", name, {"splits": {"train": "train_r1+train_r2+train_r3"}})
    assert read(spec, "train").texts == ["round 1", "round 2", "round 3"]
    spec = own("masked_language_modeling", name, {"splits": {"train": "train_r1+train_r4"}})
    with pytest.raises(UserError, match=r"no split 'train_r4'; did you mean 'train_r3'\?"):
        read(spec, "train")


def test_the_branch_of_converted_data_sets_has_a_folder_per_configuration(tmp_path: Path) -> None:
    import datasets

    for config in ("de", "sw"):
        folder = tmp_path / "converted" / config / "validation"
        folder.mkdir(parents=True)
        datasets.Dataset.from_dict({"text": [config]}).to_parquet(folder / "0000.parquet")
    hub = {"config": "{language}", "revision": "refs/convert/parquet"}
    spec = own("masked_language_modeling", str(tmp_path / "converted"), hub, languages=["de", "sw"])
    assert [read(spec, "dev", language).texts for language in ("de", "sw")] == [["de"], ["sw"]]


def test_the_branch_of_converted_data_sets_needs_no_configuration_where_there_is_one(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "converted" / "default" / "validation"
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(folder / "0000.parquet")
    spec = own("masked_language_modeling", str(tmp_path / "converted"), {"revision": "refs/convert/parquet"})
    assert read(spec).texts == ["a"]


def test_a_translation_on_the_hub_may_be_trained_on(tmp_path: Path) -> None:
    name = make_dataset(tmp_path / "own", {"en": {"train": [{"text": "a"}]}, "de": {"train": [{"text": "b"}]}})
    spec = own("masked_language_modeling", name, {"config": "{language}"}, translations=True)
    assert read(spec, "train", "de").texts == ["b"]
    with pytest.raises(UserError, match=r"hub dataset .* \(sw\) cannot be loaded: "):
        read(spec, "train", "sw")


def test_a_revision_is_passed_on_and_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    asked = {}

    def load_dataset(name: str, config: str | None, revision: str | None) -> Any:
        asked[name] = revision
        return {"validation": datasets.Dataset.from_dict({"text": ["a"]})}

    class Hub:
        def dataset_info(self, dataset: str, revision: str | None, timeout: float) -> Any:
            return type("Info", (), {"sha": f"commit of {revision}"})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    spec = own("masked_language_modeling", "some/where", {"revision": "v2"})
    assert read(spec).texts == ["a"]
    assert asked == {"some/where": "v2"}
    assert find_origin(spec, "dev", "en", HUB).revision == "commit of v2"


def test_without_a_network_and_of_folders_no_revision_is_known(tmp_path: Path) -> None:
    assert resolved_revision("nobody/there-is-no-such-data-set") == ""
    assert resolved_revision(str(tmp_path)) == ""
