"""Tasks of parts, files that are read together, splits cut at random, and training on translations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import QuestionExamples, TextExamples
from xlt_scale.tasks.loading import DataSource, available_languages, find_origin, load_examples, scored_split
from xlt_scale.tasks.spec import Split, TaskSpec

Write = Callable[[str, str], Path]


def table(pattern: str, split: Split = "train", **fields: Any) -> dict[str, Any]:
    return {"split": split, "pattern": pattern, "text": 0, "label": 1} | fields


def tasks(**tables: dict[str, Any]) -> dict[str, TaskSpec]:
    return load_catalogue({name: {"kind": "classification"} | fields for name, fields in tables.items()})


def load(spec: TaskSpec, root: Path, split: Split = "train", language: str = "en") -> TextExamples:
    examples = load_examples(spec, split, language, DataSource({"": root}, use_hub=False))
    assert isinstance(examples, TextExamples)
    return examples


def test_a_union_has_the_examples_of_its_parts_with_labels_by_word(write: Write, tmp_path: Path) -> None:
    write("a.tsv", "one\tyes\ntwo\tno\nthree\t-\n")
    write("b.tsv", "four\tno\nfive\tyes\nsix\tmaybe\n")
    union = tasks(
        first={"labels": ["yes", "no"], "unlabelled": ["-"], "files": [table("a.tsv")]},
        second={"labels": ["maybe", "no", "yes"], "files": [table("b.tsv")]},
        both={"parts": ["first", "second"], "labels": ["yes", "no"], "label_aliases": {"maybe": "no"}},
    )["both"]
    examples = load(union, tmp_path)
    assert examples.texts == ["one", "two", "four", "five", "six"]
    assert examples.labels == [0, 1, 1, 0, 1]
    assert examples.num_dropped == 1


def test_a_union_without_labels_has_those_of_its_first_part(tmp_path: Path) -> None:
    found = tasks(first={"labels": ["yes", "no"]}, both={"parts": ["first"]})
    assert found["both"].labels == ["yes", "no"]


def test_the_languages_of_a_union_are_those_that_every_part_has(write: Write, tmp_path: Path) -> None:
    for name in ("a-de", "a-fr", "b-fr", "b-sw"):
        write(f"{name}.tsv", "x\tyes\n")
    found = tasks(
        a={"labels": ["yes", "no"], "files": [table("a-{language}.tsv")]},
        b={"labels": ["yes", "no"], "files": [table("b-{language}.tsv")]},
        both={"parts": ["a", "b"]},
    )
    assert available_languages(found["both"], "train", DataSource({"": tmp_path})) == ["fr"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parts": ["snlii"]}, "task 'both': its part 'snlii' is unknown; did you mean 'snli'?"),
        ({"parts": ["snli", "xquad"]}, "task 'both' is of kind 'classification' but its part 'xquad' is 'span'"),
        (
            {"parts": ["snli"], "labels": ["entailment", "other"]},
            "task 'both': label 'neutral' of its part 'snli' is not one of entailment, other; "
            "declare it in [tasks.both] labels or label_aliases",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        tasks(both=fields)
    assert str(error.value) == message


def test_parts_with_and_without_second_texts_are_refused(write: Write, tmp_path: Path) -> None:
    write("a.tsv", "one\tyes\n")
    found = tasks(
        a={"labels": ["yes", "no"], "files": [table("a.tsv")]},
        b={"labels": ["yes", "no"], "files": [table("a.tsv", text_pair=1)]},
        both={"parts": ["a", "b"]},
    )
    with pytest.raises(UserError, match="task 'both': examples with and without text_pairs cannot be joined; give all"):
        load(found["both"], tmp_path)


def test_all_files_that_match_are_read_in_the_order_of_their_paths(write: Write, tmp_path: Path) -> None:
    for number in (3, 1, 2):
        write(f"anli/R{number}/train.tsv", f"round {number}\tyes\n")
    spec = tasks(own={"labels": ["yes", "no"], "files": [table("anli/R*/train.tsv")]})["own"]
    assert load(spec, tmp_path).texts == ["round 1", "round 2", "round 3"]
    origin = find_origin(spec, "train", "en", DataSource({"": tmp_path}))
    assert [path.parent.name for path in origin.files] == ["R1", "R2", "R3"]
    assert str(origin) == f"{tmp_path}/anli/R1/train.tsv and 2 more"


def shared(write: Write, num_rows: int, **fields: Any) -> TaskSpec:
    write("own.tsv", "".join(f"text {number}\tyes\n" for number in range(num_rows)))
    shares = {"train": 0.7, "dev": 0.1, "test": 0.2}
    return tasks(own={"labels": ["yes", "no"], "files": [table("own.tsv")], "split_shares": shares} | fields)["own"]


def test_the_shares_of_a_split_are_disjoint_and_complete_and_keep_its_order(write: Write, tmp_path: Path) -> None:
    spec = shared(write, 1000)
    numbers = [
        [int(text.removeprefix("text ")) for text in load(spec, tmp_path, split).texts]
        for split in ("train", "dev", "test")
    ]
    assert [len(share) for share in numbers] == [700, 100, 200]
    assert all(share == sorted(share) for share in numbers)
    assert sorted(number for share in numbers for number in share) == list(range(1000))


CUT = ["text 1", "text 4", "text 11", "text 19"]


def test_the_cut_is_the_same_on_every_machine_and_follows_the_seed(write: Write, tmp_path: Path) -> None:
    assert load(shared(write, 20), tmp_path, "test").texts == CUT
    assert load(shared(write, 20, split_seed=2), tmp_path, "test").texts != CUT


def test_the_cut_is_scored_and_its_languages_are_those_of_the_published_split(write: Write, tmp_path: Path) -> None:
    spec, source = shared(write, 20), DataSource({"": tmp_path}, use_hub=False)
    assert available_languages(spec, "test", source) == ["en"]
    assert scored_split(spec, source) == "test"


def test_questions_about_one_passage_are_in_one_share(write: Write, tmp_path: Path) -> None:
    rows = [f"What {number}?\tpassage {number // 5} x\tx\n" for number in range(200)]
    write("own.tsv", "".join(rows))
    layout = {"split": "train", "pattern": "own.tsv", "text": 0, "text_pair": 1, "answers": 2}
    spec = load_catalogue({"own": {"kind": "span", "files": [layout], "split_shares": {"train": 0.5, "test": 0.5}}})
    train, test = (load_examples(spec["own"], split, "en", DataSource({"": tmp_path})) for split in ("train", "test"))
    assert isinstance(train, QuestionExamples) and isinstance(test, QuestionExamples)
    assert len(train) == len(test) == 100
    assert not set(train.contexts) & set(test.contexts)


def test_a_parallel_task_is_cut_alike_in_every_language(write: Write, tmp_path: Path) -> None:
    for language in ("de", "sw"):
        same = "same" if language == "de" else "other"
        write(f"{language}.tsv", "".join(f"{same if number < 10 else number}\tyes\n" for number in range(40)))
    shares = {"train": 0.5, "test": 0.5}
    layout = table("{language}.tsv")
    spec = tasks(own={"labels": ["yes", "no"], "files": [layout], "split_shares": shares, "parallel": True})["own"]
    de, sw = (load(spec, tmp_path, "test", language).texts for language in ("de", "sw"))
    assert [text for text in de if text.isdecimal()] == [text for text in sw if text.isdecimal()]
    assert len(de) == len(sw) == 20


def test_a_split_that_is_cut_into_others_is_not_read_whole(write: Write, tmp_path: Path) -> None:
    spec = shared(write, 20, split_shares={"dev": 0.5, "test": 0.5})
    with pytest.raises(UserError, match="its train split is cut into dev and test by split_shares; use those"):
        load(spec, tmp_path, "train")


def translated(**fields: Any) -> TaskSpec:
    files = [table("own/train.tsv"), table("own/train-{language}.tsv"), table("own/dev-{language}.tsv", "dev")]
    return tasks(own={"labels": ["yes", "no"], "languages": ["en"], "files": files, "translations": True} | fields)[
        "own"
    ]


def test_a_translation_may_be_trained_on_where_its_file_is(write: Write, tmp_path: Path) -> None:
    for name in ("train", "train-de", "train-v1.1", "dev-de"):
        write(f"own/{name}.tsv", f"{name}\tyes\n")
    source = DataSource({"": tmp_path}, use_hub=False)
    assert available_languages(translated(), "train", source) == ["en", "de"]
    assert available_languages(translated(), "dev", source) == []
    assert load(translated(), tmp_path, "train", "de").texts == ["train-de"]
    assert load(translated(), tmp_path, "train", "en").texts == ["train"]


def test_the_file_of_the_source_language_is_not_taken_for_a_translation(write: Write, tmp_path: Path) -> None:
    write("own/train.tsv", "x\tyes\n")
    with pytest.raises(UserError) as error:
        load(translated(), tmp_path, "train", "sw")
    assert str(error.value) == (
        f"task 'own': no train data in language 'sw'; looked for own/train-sw.tsv below {tmp_path}"
    )


def test_other_languages_are_neither_scored_nor_trained_on_without_translations(write: Write, tmp_path: Path) -> None:
    for name in ("train-de", "dev-de"):
        write(f"own/{name}.tsv", "x\tyes\n")
    for spec, split in ((translated(), "dev"), (translated(translations=False), "train")):
        with pytest.raises(UserError, match="task 'own' has no language 'de'; "):
            load(spec, tmp_path, split, "de")  # type: ignore[arg-type]
