"""Every hub layout of the catalogue against a small local copy of the data set, with the columns its card describes.

What a data set looks like is written down here a second time, on purpose: a column, split, configuration or label
that is misspelt in the catalogue does not fit it.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import (
    ChoiceExamples,
    Examples,
    QuestionExamples,
    TaggedExamples,
    TextExamples,
)
from xlt_scale.tasks.loading import DataSource, load_examples
from xlt_scale.tasks.spec import TaskSpec

HUB = DataSource({}, use_files=False)
CONVERTED = "refs/convert/parquet"
LAYOUTS = {name: spec.hub for name, spec in load_catalogue().items() if spec.hub}

# Types of columns: names of classes, or what `datasets` calls a type; a list of one is a list of those.
Kind = str | tuple[str, ...] | list[Any] | dict[str, Any]

NLI = ("entailment", "neutral", "contradiction")
ENTITIES = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
PARTS_OF_SPEECH = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
)


@dataclass(frozen=True)
class Published:
    """What a data set holds.

    Attributes:
        languages: the languages that are loaded here -> the configuration that the data set has for them.
        columns: every column's type.
        rows: the same rows in every split.
        splits: their names; the published ones, whether or not we read them.
        expected: labels (or tags) that our rows stand for; None where there are none.
        num_dropped: rows that have no label.
        configs: all its configurations, where they are languages.
        others: rows of a language that is not loaded.
    """

    languages: dict[str, str]
    columns: dict[str, Kind]
    rows: list[dict[str, Any]]
    splits: str
    expected: list[Any] | None
    num_dropped: int = 0
    configs: str = ""
    others: list[dict[str, Any]] = field(default_factory=list)
    kind: type[Examples] = field(default=TextExamples)


def pairs(languages: dict[str, str], texts: str, labels: tuple[str, ...], splits: str, **more: Any) -> Published:
    """A data set of text pairs with a row of every class, and one without a label."""
    first, second = texts.split()
    columns: dict[str, Kind] = {first: "string", second: "string", "label": labels}
    rows = [{first: f"one {label}", second: "two", "label": label} for label in [*range(len(labels)), -1]]
    return Published(languages, columns, rows, splits, [*range(len(labels))], num_dropped=1, **more)


def questions(languages: dict[str, str], splits: str, name: str = "a", **more: Any) -> Published:
    """SQuAD as it is on the hub; ids begin with `name`."""
    text = {"context": "Es ist grün, sehr grün.", "title": "t"}
    rows: list[dict[str, Any]] = [
        {"id": f"{name}-1", "question": "Wie?", **text, "answers": {"text": ["grün"], "answer_start": [7]}},
        {"id": f"{name}-2", "question": "Wie?", **text, "answers": {"text": ["grün"] * 2, "answer_start": [7, 18]}},
    ]
    answers: Kind = {"text": ["string"], "answer_start": ["int32"]}
    columns: dict[str, Kind] = {"id": "string", "title": "string", "context": "string", "question": "string"}
    return Published(languages, {**columns, "answers": answers}, rows, splits, None, kind=QuestionExamples, **more)


def choices(
    languages: dict[str, str], columns: dict[str, Kind], labels: list[Any], splits: str, **more: Any
) -> Published:
    """A row for every label, its texts the names of their columns."""
    label = "answerKey" if "answerKey" in columns else "label"
    rows = [
        {name: number if name == label else _value(kind, name) for name, kind in columns.items()} for number in labels
    ]
    return Published(languages, columns, rows, splits, [*range(len(labels))], kind=ChoiceExamples, **more)


def tags(languages: dict[str, str], column: str, names: tuple[str, ...], **more: Any) -> Published:
    """A sentence with every tag."""
    columns: dict[str, Kind] = {"tokens": ["string"], column: [names], **more.pop("columns", {})}
    rows = [
        {name: _value(kind, name) for name, kind in columns.items()}
        | {"tokens": [f"w{number}" for number in range(len(names))], column: [*range(len(names))]}
    ]
    return Published(
        languages, columns, rows, "train validation test", [[*range(len(names))]], kind=TaggedExamples, **more
    )


def _value(kind: Kind, name: str) -> Any:
    """Some value of a column of that type."""
    if isinstance(kind, list):
        return [_value(kind[0], f"{name} {number}") for number in range(4)]
    if isinstance(kind, dict):
        return {key: _value(part, key) for key, part in kind.items()}
    return f"<{name}>" if kind == "string" else 0


SIQA: dict[str, Kind] = dict.fromkeys(["context", "question", "answerA", "answerB", "answerC", "label"], "string")
COSMOSQA: dict[str, Kind] = dict.fromkeys(
    ["id", "context", "question", "answer0", "answer1", "answer2", "answer3"], "string"
)
HELLASWAG: dict[str, Kind] = {"ctx_a": "string", "ctx_b": "string", "ctx": "string", "endings": ["string"]}
COMMONSENSEQA: dict[str, Kind] = {
    "id": "string",
    "question": "string",
    "question_concept": "string",
    "choices": {"label": ["string"], "text": ["string"]},
    "answerKey": "string",
}
COPA: dict[str, Kind] = dict.fromkeys(["premise", "choice1", "choice2", "question"], "string")
XQUAD = "ar de el en es hi ro ru th tr vi zh"
XNLI = "ar bg de el en es fr hi ru sw th tr ur vi zh"
UDPOS = (
    "Afrikaans Arabic Basque Bulgarian Chinese Dutch English Estonian Finnish French German Greek Hebrew Hindi "
    "Hungarian Indonesian Italian Japanese Kazakh Korean Marathi Persian Portuguese Russian Spanish Tagalog Tamil "
    "Telugu Thai Turkish Urdu Vietnamese Yoruba"
)
TATOEBA = (
    "sqi fry kur tur deu nld ron ang ido jav isl slv cym kaz est heb gla mar lat bel pms gle pes nob bul cbk hun "
    "uig rus spa hye tel afr mon arz hrv nov gsw nds ukr uzb lit ina lfn zsm ita cmn lvs glg ceb bre ben swg arq "
    "kab fra por tat oci pol war aze vie nno cha mhr dan ell amh pam hsb srp epo kzj awa fao mal ile bos cor cat "
    "eus yue swe dtp kat jpn csb xho orv ind tuk max swh hin dsb ber tam slk tgl ast mkd khm ces tzl urd ara kor "
    "yid fin tha wuu"
)


def named(pattern: str, names: str) -> str:
    return " ".join(pattern.replace("*", name) for name in names.split())


PUBLISHED: dict[str, Published] = {
    "hellaswag": choices({"en": ""}, {**HELLASWAG, "label": "string"}, list("0123"), "train validation test"),
    "cosmosqa": choices({"en": "default"}, {**COSMOSQA, "label": "int32"}, [0, 1, 2, 3], "train validation test"),
    "commonsenseqa": choices({"en": ""}, COMMONSENSEQA, list("ABCD"), "train validation test"),
    "siqa": choices({"en": "default"}, SIQA, list("123"), "train validation"),
    "copa": choices({"en": "copa"}, {**COPA, "label": ("choice1", "choice2")}, [0, 1], "train validation test"),
    "xcopa": choices(
        {"sw": "sw", "zh": "zh"},
        {**COPA, "label": "int32", "idx": "int32", "changed": "int32"},
        [0, 1],
        "validation test",
        configs="et ht id it qu sw ta th tr vi zh",
    ),
    "mlm": Published(
        {"en": "20231101.en", "sw": "20231101.sw"},
        dict.fromkeys(["id", "url", "title", "text"], "string"),
        [{"id": "1", "url": "u", "title": "t", "text": "Nairobi ni mji."}] * 2,
        "train",
        None,
    ),
    "snli": pairs({"en": "plain_text"}, "premise hypothesis", NLI, "train validation test"),
    "mnli": pairs(
        {"en": "mnli"}, "premise hypothesis", NLI, "train validation_matched validation_mismatched test_matched"
    ),
    "anli": pairs(
        {"en": "plain_text"},
        "premise hypothesis",
        NLI,
        " ".join(f"{split}_r{number}" for split in ("train", "dev", "test") for number in (1, 2, 3)),
    ),
    "xnli": pairs(
        {"en": "en", "sw": "sw"}, "premise hypothesis", NLI, "train validation test", configs=f"all_languages {XNLI}"
    ),
    "americasnli": pairs(
        {"aym": "aym", "quy": "quy"},
        "premise hypothesis",
        NLI,
        "validation test",
        configs="all_languages aym bzd cni gn hch nah oto quy shp tar",
    ),
    "qqp": pairs({"en": "qqp"}, "question1 question2", ("not_duplicate", "duplicate"), "train validation test"),
    "paws": pairs({"en": "labeled_final"}, "sentence1 sentence2", ("0", "1"), "train validation test"),
    "pawsx": pairs(
        {"en": "en", "ko": "ko"},
        "sentence1 sentence2",
        ("0", "1"),
        "train validation test",
        configs="de en es fr ja ko zh",
    ),
    "imdb": Published(
        {"en": "plain_text"},
        {"text": "string", "label": ("neg", "pos")},
        [{"text": "Bad.", "label": 0}, {"text": "Good.", "label": 1}],
        "train test unsupervised",
        [0, 1],
    ),
    "squad": questions({"en": "plain_text"}, "train validation"),
    "squad-v2": questions({"en": "squad_v2"}, "train validation"),
    "xquad": questions({"en": "xquad.en", "ro": "xquad.ro"}, "validation", configs=named("xquad.*", XQUAD)),
    "mlqa": questions(
        {"en": "mlqa.en.en", "de": "mlqa.de.de"}, "validation test", configs=named("mlqa.*.*", "ar de en es hi vi zh")
    ),
    "tydiqa": replace(
        questions({"fi": "secondary_task"}, "train validation", "finnish"),
        others=questions({}, "", "english").rows,
    ),
    "tatoeba": Published(
        {"de": "deu-eng", "zh": "cmn-eng"},
        {"sentence1": "string", "sentence2": "string"},
        [{"sentence1": "Ja.", "sentence2": "Yes."}, {"sentence1": "Nein.", "sentence2": "No."}],
        "test",
        None,
        configs=named("*-eng", TATOEBA),
    ),
    "udpos": tags(
        {"en": "udpos.English", "de": "udpos.German"}, "pos_tags", PARTS_OF_SPEECH, configs=named("udpos.*", UDPOS)
    ),
    "panx": tags({"en": "en", "yo": "yo"}, "ner_tags", ENTITIES, columns={"langs": ["string"], "spans": ["string"]}),
    "masakhaner": tags(
        {"pcm": "pcm", "sw": "swa"},
        "ner_tags",
        (*ENTITIES, "B-DATE", "I-DATE"),
        columns={"id": "string"},
        configs="amh hau ibo kin lug luo pcm swa wol yor",
    ),
}
CASES = [(name, language) for name, published in PUBLISHED.items() for language in published.languages]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a cache of the test's own."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def feature(kind: Kind) -> Any:
    import datasets

    if isinstance(kind, str):
        return datasets.Value(kind)
    if isinstance(kind, tuple):
        return datasets.ClassLabel(names=list(kind))
    if isinstance(kind, list):
        return datasets.List(feature(kind[0]))
    return {name: feature(part) for name, part in kind.items()}


def local_copy(folder: Path, published: Published, config: str, is_converted: bool) -> str:
    """Write one configuration as Parquet: as a data set with a card, or as the branch of converted ones."""
    import datasets

    features = datasets.Features({name: feature(kind) for name, kind in published.columns.items()})
    rows = [*published.rows, *published.others]
    columns = {name: [row[name] for row in rows] for name in published.columns}
    table = datasets.Dataset.from_dict(columns, features=features)
    card = ["---", "configs:", f"- config_name: {config or 'default'}", "  data_files:"]
    for split in published.splits.split():
        name = f"{split}/0000.parquet" if is_converted else f"{split}-00000-of-00001.parquet"
        path = folder / (config or "data") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)
        card += [f"  - split: {split}", f"    path: {config or 'data'}/{name}"]
    if not is_converted:
        (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return str(folder)


def of_local_copy(name: str, folder: str) -> TaskSpec:
    """The catalogue's task with a folder for its data set; the branch of converted ones is laid out in its own way."""
    (hub,) = LAYOUTS[name]
    revision = hub.revision if hub.revision == CONVERTED else ""
    return load_catalogue()[name].model_copy(
        update={"hub": [hub.model_copy(update={"dataset": folder, "revision": revision})]}
    )


@pytest.mark.parametrize(("name", "language"), CASES)
def test_every_split_of_a_hub_layout_is_read_in_a_data_set_of_the_published_columns(
    name: str, language: str, tmp_path: Path
) -> None:
    published, (hub,) = PUBLISHED[name], LAYOUTS[name]
    folder = local_copy(tmp_path / "copy", published, published.languages[language], hub.revision == CONVERTED)
    for split, parts in hub.splits.items():
        found = load_examples(of_local_copy(name, folder), split, language, HUB)
        assert type(found) is published.kind
        times = parts.count("+") + 1
        assert len(found) == times * (len(published.rows) - published.num_dropped)
        assert found.num_dropped == times * published.num_dropped
        assert labels_of(found) == (None if published.expected is None else published.expected * times)
        assert all(texts_of(found))


def labels_of(found: Examples) -> list[Any] | None:
    return found.columns.get("tags" if isinstance(found, TaggedExamples) else "labels")


def texts_of(found: Examples) -> list[Any]:
    """Every text and list of texts of some examples."""
    columns = [column for key, column in found.columns.items() if key not in ("labels", "tags") and column is not None]
    return [value for column in columns for value in column]


@pytest.mark.parametrize("name", ["copa", "xcopa"])
@pytest.mark.parametrize("word", ["cause", "effect"])
def test_the_hub_s_causes_and_effects_become_questions(name: str, word: str, tmp_path: Path) -> None:
    published = PUBLISHED[name]
    language, config = next(iter(published.languages.items()))
    published = replace(published, rows=[row | {"question": word} for row in published.rows])
    spec = of_local_copy(name, local_copy(tmp_path / "copy", published, config, False))
    found = load_examples(spec, "dev", language, HUB)
    assert isinstance(found, ChoiceExamples)
    assert set(found.contexts) == {f"<premise> What was the {word}?"}


def test_unanswerable_questions_are_read_from_the_second_squad_alone(tmp_path: Path) -> None:
    for name in ("squad-v2", "squad"):
        config = PUBLISHED[name].languages["en"]
        rows = [PUBLISHED[name].rows[0] | {"answers": {"text": [], "answer_start": []}}, PUBLISHED[name].rows[1]]
        published = replace(PUBLISHED[name], rows=rows)
        spec = of_local_copy(name, local_copy(tmp_path / name, published, config, False))
        if name == "squad":
            with pytest.raises(UserError, match="no answer"):
                load_examples(spec, "dev", "en", HUB)
        else:
            found = load_examples(spec, "dev", "en", HUB)
            assert isinstance(found, QuestionExamples)
            assert found.answers == [[], [("grün", 7), ("grün", 18)]]


def test_every_hub_layout_is_compared_with_its_data_set() -> None:
    assert LAYOUTS.keys() == PUBLISHED.keys()
    assert all(len(layouts) == 1 for layouts in LAYOUTS.values())


@pytest.mark.parametrize("name", [name for name, published in PUBLISHED.items() if published.configs])
def test_every_language_of_a_task_has_a_configuration_of_its_data_set(name: str) -> None:
    spec, (hub,) = load_catalogue()[name], LAYOUTS[name]
    codes = {**{language: language for language in spec.languages}, **spec.language_codes, **hub.language_codes}
    wanted = {hub.config.replace("{language}", codes[language]) for language in hub.languages or spec.languages}
    assert wanted <= set(PUBLISHED[name].configs.split())


def test_a_revision_is_a_whole_commit_or_the_branch_of_converted_data_sets_or_open() -> None:
    for layouts in LAYOUTS.values():
        for hub in layouts:
            assert hub.revision in ("", CONVERTED) or re.fullmatch("[0-9a-f]{40}", hub.revision), hub.dataset


def test_one_data_set_has_one_revision() -> None:
    found = {(hub.dataset, hub.revision) for layouts in LAYOUTS.values() for hub in layouts}
    assert len(found) == len({dataset for dataset, _ in found})
