"""From a run's data options to tokenised splits: which folders, which languages, how many examples."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.config import DataOptions
from xlt_scale.data.prepare import DataPreparer, cache_folder, data_source
from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import QuestionExamples, RankingExamples, TextExamples
from xlt_scale.tasks.loading import DataSource

CATALOGUE = load_catalogue()


@pytest.fixture
def preparer(tokenizer: Any, write: Callable[[str, str], Path], tmp_path: Path) -> DataPreparer:
    """Three German and two Swahili lines of text, four labelled pairs in English."""
    write("data/text/deu.txt", "ein\nzwei\ndrei\n")
    write("data/text/swh.txt", "moja\nmbili\n")
    pairs = "".join(f"a{i}\tb{i}\tneutral\n" for i in range(4))
    write("data/snli/train.tsv", f"sentence1\tsentence2\tgold_label\n{pairs}")
    source = DataSource({"": tmp_path / "data"}, use_hub=False)
    return DataPreparer(source, tokenizer, 32, token_types=False, cache=tmp_path / "cache")


def test_masked_language_modelling_takes_every_language_there_is(preparer: DataPreparer) -> None:
    spec = CATALOGUE["mlm"].model_copy(update={"join_lines": False})
    assert len(preparer.training_data(spec, [], 0)) == 3 + 2
    assert len(preparer.training_data(spec, ["swh"], 0)) == 2


def test_another_task_takes_its_source_language(preparer: DataPreparer) -> None:
    assert len(preparer.training_data(CATALOGUE["snli"], [], 0)) == 4


def test_the_first_examples_of_each_language_are_taken(preparer: DataPreparer) -> None:
    spec = CATALOGUE["mlm"].model_copy(update={"join_lines": False})
    assert len(preparer.training_data(spec, [], 1)) == 2
    few, all_of_them = (preparer.split(CATALOGUE["snli"], "train", "en", n) for n in (2, 0))
    assert few.input_ids.tolist() == all_of_them.input_ids[: all_of_them.offsets[2]].tolist()
    assert few.labels is not None and few.labels.tolist() == [1, 1]


def test_examples_and_their_tokens_go_together(preparer: DataPreparer) -> None:
    spec = CATALOGUE["snli"]
    examples = preparer.examples(spec, "train", "en", 3)
    assert isinstance(examples, TextExamples)
    assert examples.texts == ["a0", "a1", "a2"]
    assert preparer.tokenize(spec, examples).fingerprint == preparer.split(spec, "train", "en", 3).fingerprint


def test_a_task_may_have_a_length_and_a_stride_of_its_own(preparer: DataPreparer) -> None:
    question = QuestionExamples(["1"], ["who"], ["the old man walks slowly to the market " * 9], [[]])
    spec = CATALOGUE["snli"].model_copy(update={"max_length": 48, "stride": 7})
    data = preparer.tokenize(spec, question)
    assert data.char_offsets is not None
    first, second = (data.char_offsets[start:end] for start, end in pairwise(data.offsets[:3]))
    assert len(first) == 48
    inside = [part[part[:, 0] >= 0] for part in (first, second)]
    assert inside[0][-7:].tolist() == inside[1][:7].tolist()
    assert preparer.tokenize(spec.model_copy(update={"max_length": 0}), question).lengths.max() == 32


def test_a_task_with_longer_sequences_than_the_model_reads_is_refused(preparer: DataPreparer) -> None:
    spec = CATALOGUE["snli"].model_copy(update={"max_length": 384})
    with pytest.raises(UserError) as error:
        replace(preparer, max_positions=128).split(spec, "train", "en")
    assert str(error.value) == (
        "task 'snli': max_length = 384, but the model has 128 positions; set [tasks.snli] max_length to 128 or less"
    )
    assert len(replace(preparer, max_positions=384).split(spec, "train", "en")) == 4


def test_the_sides_of_a_ranking_are_cut_as_in_training(preparer: DataPreparer) -> None:
    long = "the old man walks slowly to the market " * 9
    examples = RankingExamples(["q"], [long], [["c"]], ["c", "d"], ["fish", long], ["cold water", long])
    spec = CATALOGUE["snli"].model_copy(update={"max_length": 128})
    trained = preparer.tokenize(spec, examples)
    queries, candidates = preparer.tokenize_queries(spec, examples), preparer.tokenize_candidates(spec, examples)
    assert (queries.lengths.tolist(), candidates.lengths.max()) == ([96], 128)
    assert trained.input_ids.tolist() == [
        *queries.input_ids.tolist(),
        *candidates.input_ids[: candidates.lengths[0]].tolist(),
    ]


def test_languages_of_training_are_those_given_or_the_tasks_own(preparer: DataPreparer) -> None:
    assert preparer.training_languages(CATALOGUE["mlm"], []) == ["deu", "swh"]
    assert preparer.training_languages(CATALOGUE["snli"], []) == ["en"]
    assert preparer.training_languages(CATALOGUE["snli"], ["sw"]) == ["sw"]


def test_an_order_of_languages_is_kept(preparer: DataPreparer) -> None:
    one, other = (
        preparer.training_data(CATALOGUE["mlm"], languages, 0) for languages in (["deu", "swh"], ["swh", "deu"])
    )
    assert one.fingerprint != other.fingerprint


def test_without_training_files_the_place_is_named(preparer: DataPreparer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = DataPreparer(DataSource({"": tmp_path / "empty"}), preparer.tokenizer, 32, False, tmp_path)
    with pytest.raises(UserError) as error:
        empty.training_data(CATALOGUE["mlm"], [], 0)
    assert str(error.value) == f"task 'mlm': no training files; looked below {tmp_path / 'empty'}"


def test_the_data_folder_of_the_run_goes_before_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of-the-run").mkdir()
    monkeypatch.setenv("XLT_SCALE_DATA", str(tmp_path))
    assert data_source(DataOptions(root=str(tmp_path / "of-the-run")), False).roots == {"": tmp_path / "of-the-run"}
    assert data_source(DataOptions(), False).roots == {"": tmp_path}
    monkeypatch.delenv("XLT_SCALE_DATA")
    assert data_source(DataOptions(), False).roots == {}


@pytest.mark.parametrize("by_option", [True, False])
def test_a_data_folder_that_is_not_there_is_named_by_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_option: bool
) -> None:
    absent = str(tmp_path / "absent")
    monkeypatch.setenv("XLT_SCALE_DATA", absent)
    with pytest.raises(UserError) as error:
        data_source(DataOptions(root=absent if by_option else ""), False)
    key = "data.root" if by_option else "XLT_SCALE_DATA"
    assert str(error.value) == f"{key} = {absent!r} is not a folder; give the folder that holds the task files"


@pytest.mark.parametrize(
    ("source", "use_files", "use_hub"), [("auto", True, True), ("files", True, False), ("hub", False, True)]
)
def test_the_source_says_whether_files_or_the_hub_are_asked(source: Any, use_files: bool, use_hub: bool) -> None:
    found = data_source(DataOptions(source=source), False)
    assert (found.use_files, found.use_hub) == (use_files, use_hub)


def test_the_cache_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(DataOptions()) == tmp_path / ".cache" / "xlt_scale"
    assert cache_folder(DataOptions(cache="~/elsewhere")) == tmp_path / "elsewhere"
