"""Examples from hub data sets, read through `datasets` from local folders of the hub's layout, without a network."""

import json
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import DataSource, Examples, load_examples
from xlt_scale.tasks.spec import Split

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


def load(task: str, dataset: str, split: Split, language: str, **hub_fields: str) -> Examples:
    """Load a catalogue task whose hub data set is the given one."""
    spec = load_catalogue()[task]
    hub = spec.hub[0].model_copy(update={"dataset": dataset, **hub_fields})
    return load_examples(spec.model_copy(update={"hub": [hub]}), split, language, HUB)


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
    assert load_examples(spec, "train", "en", DataSource({"": tmp_path})).texts == ["from a file"]


def test_a_label_outside_the_declared_set_is_named(tmp_path: Path) -> None:
    name = make_dataset(tmp_path / "snli", {"plain_text": {"train": [row("a", "b", 0), row("a", "b", 3)]}})
    assert refusal("snli", name, "train", "en").startswith(
        f"hub dataset {name}, line 2: label '3' is not one of entailment, neutral, contradiction; "
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
    assert message.endswith("; put its published files under data.root, or fetch it on a machine with a network")


def test_the_hub_is_not_asked_when_files_alone_may_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no train data in language 'en'; looked for snli/"):
        load_examples(load_catalogue()["snli"], "train", "en", DataSource({"": tmp_path}, use_hub=False))
