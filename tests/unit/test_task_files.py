"""Published task files: every layout that the catalogue knows, and what is said of a broken file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import TextExamples
from xlt_scale.tasks.loading import DataSource, available_languages, load_examples, scored_split
from xlt_scale.tasks.selection import Selection
from xlt_scale.tasks.spec import FileLayout, Split
from xlt_scale.tasks.tables import read_table

Write = Callable[[str, str], Path]
CATALOGUE = load_catalogue()
PAIRS = FileLayout(split="train", pattern="x", text=0, text_pair=1, label=2)
NAMED = FileLayout(split="train", pattern="x", header=True, text="premise", text_pair="hypothesis", label="label")
XNLI_HEADER = "language\tgold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1\tsentence2\tpairID\n"


def load(root: Path, task: str, split: Split, language: str) -> TextExamples:
    examples = load_examples(CATALOGUE[task], split, language, DataSource({"": root}, use_hub=False))
    assert isinstance(examples, TextExamples)
    return examples


def refusal(root: Path, task: str, split: Split = "train", language: str = "en") -> str:
    """The message with which a task's files are refused; it must be one line."""
    with pytest.raises(UserError) as error:
        load(root, task, split, language)
    message = str(error.value)
    assert "\n" not in message
    return message


def rows(path: Path, layout: FileLayout) -> list[tuple[str, str, str, str]]:
    """(place, first text, second text, label) of each row."""
    found = Selection(read_table(path, layout), layout)
    assert layout.text_pair is not None and layout.label is not None
    columns = [found.texts(column) for column in (layout.text, layout.text_pair, layout.label)]
    places = [found.place(number).removeprefix(f"{path}, ") for number in range(len(found))]
    return list(zip(places, *columns, strict=True))


def row_refusal(path: Path, layout: FileLayout) -> str:
    with pytest.raises(UserError) as error:
        rows(path, layout)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# Layouts


def test_snli_as_the_publishers_jsonl(write: Write, tmp_path: Path) -> None:
    write(
        "snli/snli_1.0_train.jsonl",
        '{"annotator_labels": ["neutral"], "gold_label": "neutral", "sentence1": "A man.", "sentence2": "A\\tB"}\n'
        '{"annotator_labels": [], "gold_label": "-", "sentence1": "A dog.", "sentence2": "A cat."}\n'
        '{"annotator_labels": [], "gold_label": "entailment", "sentence1": "Ünï", "sentence2": "日本"}\n',
    )
    examples = load(tmp_path, "snli", "train", "en")
    assert examples.texts == ["A man.", "Ünï"]
    assert examples.text_pairs == ["A\tB", "日本"]
    assert examples.labels == [1, 0]
    assert examples.num_dropped == 1


def test_snli_as_tsv(write: Write, tmp_path: Path) -> None:
    write("intermediate/snli/dev.tsv", "sentence1\tsentence2\tgold_label\nA man.\tA boy.\tcontradiction\n")
    examples = load(tmp_path, "snli", "dev", "en")
    assert (examples.texts, examples.text_pairs, examples.labels) == (["A man."], ["A boy."], [2])


def test_the_publishers_layout_goes_before_another(write: Write, tmp_path: Path) -> None:
    write("snli/dev.tsv", "sentence1\tsentence2\tgold_label\nfrom tsv\tx\tneutral\n")
    write("snli/snli_1.0_dev.jsonl", '{"gold_label": "neutral", "sentence1": "from jsonl", "sentence2": "x"}\n')
    assert load(tmp_path, "snli", "dev", "en").texts == ["from jsonl"]


def test_mnli_as_the_publishers_jsonl(write: Write, tmp_path: Path) -> None:
    write("mnli/multinli_1.0_dev_matched.jsonl", '{"gold_label": "neutral", "sentence1": "a", "sentence2": "b"}\n')
    assert load(tmp_path, "mnli", "dev", "en").labels == [1]


def test_mnli_as_glue_tsv(write: Write, tmp_path: Path) -> None:
    write(
        "mnli/train.tsv",
        "index\tpromptID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
        '0\t31\tfiction\t"Quoted at first, yes.\tHe said "no".\tneutral\tentailment\n',
    )
    examples = load(tmp_path, "mnli", "train", "en")
    assert (examples.texts, examples.text_pairs) == (['"Quoted at first, yes.'], ['He said "no".'])
    assert examples.labels == [0]


def test_xnli_in_the_publishers_layout_is_one_file_for_all_languages(write: Write, tmp_path: Path) -> None:
    write(
        "xnli/xnli.test.tsv",
        XNLI_HEADER
        + "ar\tneutral\t(x)\t(x)\tمرحبا\tb\t1\n"
        + "de\tcontradiction\t(x)\t(x)\tHallo\tb\t1\n"
        + "ar\tentailment\t(x)\t(x)\tسلام\td\t2\n",
    )
    assert load(tmp_path, "xnli", "test", "ar").texts == ["مرحبا", "سلام"]
    assert load(tmp_path, "xnli", "test", "ar").labels == [1, 0]
    assert load(tmp_path, "xnli", "test", "de").labels == [2]


def test_xnli_in_the_publishers_layout_may_lack_a_language(write: Write, tmp_path: Path) -> None:
    path = write("xnli/xnli.test.tsv", XNLI_HEADER + "ar\tneutral\t(x)\t(x)\ta\tb\t1\n")
    assert (
        refusal(tmp_path, "xnli", "test", "de")
        == f"{path}: no usable rows for task 'xnli' in language 'de' (0 dropped)"
    )


def test_xnli_in_the_layout_of_xtreme_is_one_file_per_language(write: Write, tmp_path: Path) -> None:
    write("targets/xnli/dev-sw.tsv", "moja\tmbili\tcontradiction\ntatu\tnne\tcontradictory\n")
    examples = load(tmp_path, "xnli", "dev", "sw")
    assert (examples.texts, examples.text_pairs, examples.labels) == (["moja", "tatu"], ["mbili", "nne"], [2, 2])


def test_americasnli(write: Write, tmp_path: Path) -> None:
    write(
        "targets/americasnli/test/quy.tsv",
        "id\tlanguage\tpremise\thypothesis\tlabel\n12451\tquy\tHinaptinmi\tMamanta\tneutral\n",
    )
    examples = load(tmp_path, "americasnli", "test", "quy")
    assert (examples.texts, examples.text_pairs, examples.labels) == (["Hinaptinmi"], ["Mamanta"], [1])


def test_tatoeba_is_two_files_that_translate_each_other(write: Write, tmp_path: Path) -> None:
    write("tatoeba/tatoeba.deu-eng.deu", "Hallo.\nJa\n")
    write("tatoeba/tatoeba.deu-eng.eng", "Hello.\nYes\n")
    examples = load(tmp_path, "tatoeba", "test", "de")
    assert (examples.texts, examples.text_pairs, examples.labels) == (["Hallo.", "Ja"], ["Hello.", "Yes"], None)


def test_raw_text_is_one_file_per_language_without_its_blank_lines(write: Write, tmp_path: Path) -> None:
    write("text/deu.txt", "Erste Zeile\n\n   \nZweite\u2028Zeile\n")
    examples = load(tmp_path, "mlm", "train", "deu")
    assert (examples.texts, examples.text_pairs) == (["Erste Zeile", "Zweite\u2028Zeile"], None)


def test_the_class_numbers_of_the_hub_are_read_in_files_too(write: Write, tmp_path: Path) -> None:
    write("xnli/dev-de.tsv", "a\tb\t2\nc\td\t0\ne\tf\t-1\n")
    examples = load(tmp_path, "xnli", "dev", "de")
    assert (examples.labels, examples.num_dropped) == ([2, 0], 1)


# Rows


def test_quotation_marks_in_tsv_belong_to_the_sentence(write: Write) -> None:
    path = write("x.tsv", '"Hello\t"he" said"\tneutral\n"\t""\tneutral\n')
    assert [row[1:3] for row in rows(path, PAIRS)] == [('"Hello', '"he" said"'), ('"', '""')]


def test_quotation_marks_in_csv_enclose_a_field(write: Write) -> None:
    path = write("x.csv", 'premise,hypothesis,label\n"a, ""b""\nc",d,neutral\ne,f,neutral\n')
    found = rows(path, NAMED.model_copy(update={"format": "csv"}))
    assert found == [("line 2", 'a, "b"\nc', "d", "neutral"), ("line 4", "e", "f", "neutral")]


@pytest.mark.parametrize("layout", [NAMED, NAMED.model_copy(update={"format": "csv"})], ids=["tsv", "csv"])
def test_line_ends_of_windows_are_no_part_of_a_field(write: Write, layout: FileLayout) -> None:
    separator = "\t" if layout.format == "tsv" else ","
    lines = [["premise", "hypothesis", "label"], ["a", "b", "neutral"], [""], ["c", "d", "entailment"]]
    path = write("x", "".join(separator.join(line) + "\r\n" for line in lines))
    assert rows(path, layout) == [("line 2", "a", "b", "neutral"), ("line 4", "c", "d", "entailment")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(write: Write) -> None:
    path = write("x.tsv", "\ufeffpremise\thypothesis\tlabel\na\tb\tneutral\n")
    assert rows(path, NAMED) == [("line 2", "a", "b", "neutral")]


def test_the_last_line_needs_no_line_end(write: Write) -> None:
    assert [row[1] for row in rows(write("x.tsv", "a\tb\tneutral\nc\td\tneutral"), PAIRS)] == ["a", "c"]


def test_a_column_may_be_counted_from_the_end(write: Write) -> None:
    path = write("x.tsv", "0\t1\ta\tb\tneutral\n")
    assert rows(path, PAIRS.model_copy(update={"text": -3, "text_pair": -2, "label": -1})) == [
        ("line 1", "a", "b", "neutral")
    ]


def test_a_number_in_jsonl_is_read_as_its_text(write: Write) -> None:
    path = write("x.jsonl", '{"premise": "a", "hypothesis": "b", "label": 2}\n\n')
    assert rows(path, NAMED.model_copy(update={"format": "jsonl"})) == [("line 1", "a", "b", "2")]


# Broken files


@pytest.mark.parametrize("content", ["", "\n", " \n\t\n", "\ufeff"])
def test_an_empty_file_is_named(write: Write, content: str) -> None:
    assert row_refusal(write("x.tsv", content), PAIRS) == ": the file is empty; fetch it again"


@pytest.mark.parametrize("layout", [NAMED, NAMED.model_copy(update={"format": "csv"})], ids=["tsv", "csv"])
def test_a_file_of_a_header_alone_is_named(write: Write, layout: FileLayout) -> None:
    content = "premise\thypothesis\tlabel\n".replace("\t", "\t" if layout.format == "tsv" else ",")
    assert row_refusal(write("x", content), layout) == ": the file has no rows; fetch it again"


def test_a_missing_column_is_named_with_those_that_are_there(write: Write) -> None:
    path = write("x.tsv", "premise\thypothesis\ngut\tschlecht\n")
    assert row_refusal(path, NAMED) == ": no column 'label'; valid: hypothesis, premise"


def test_a_row_that_lacks_a_column_of_the_header_is_named_with_its_line(write: Write) -> None:
    path = write("x.tsv", "premise\thypothesis\tlabel\na\tb\tneutral\ngut\tschlecht\n")
    assert row_refusal(path, NAMED) == ", line 3: no column 'label'; the row has: premise, hypothesis"


def test_a_column_by_name_in_a_file_without_a_header_is_refused_with_the_mend(write: Write) -> None:
    path = write("x.tsv", "gut\tschlecht\tneutral\n")
    layout = NAMED.model_copy(update={"header": False})
    assert row_refusal(path, layout) == ": no column 'premise'; number the columns from 0, or set header = true"


def test_a_row_that_is_too_short_is_named_with_its_line(write: Write) -> None:
    path = write("x.tsv", "a\tb\tneutral\n\nc\td\n")
    assert row_refusal(path, PAIRS) == ", line 3: column 2 is missing; the row has 2 columns"


def test_broken_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_bytes("a\tb\tneutral\ngrün\tb\tneutral\n".encode() + b"gr\xfcn\tb\tneutral\n")
    assert row_refusal(path, PAIRS) == ", line 3: not UTF-8; convert the file to UTF-8"


def test_a_line_that_is_not_json_is_named(write: Write) -> None:
    layout = NAMED.model_copy(update={"format": "jsonl"})
    path = write("x.jsonl", '{"premise": "a", "hypothesis": "b", "label": "neutral"}\n{"premise": "a", "hyp\n')
    assert row_refusal(path, layout).startswith(", line 2: not JSON (")
    assert row_refusal(write("y.jsonl", "[1, 2]\n"), layout) == ", line 1: expected a JSON object on every line"


def test_a_quotation_mark_left_open_in_csv_is_named_with_its_line(write: Write) -> None:
    path = write("x.csv", 'premise,hypothesis,label\na,b,neutral\n"c,d,neutral\n' + "e,f,neutral\n" * 20000)
    message = row_refusal(path, NAMED.model_copy(update={"format": "csv"}))
    assert message == ", line 3: not CSV (field larger than field limit (131072)); is a quotation mark left open?"


def test_an_unknown_label_is_named_with_its_line_and_the_mend(write: Write, tmp_path: Path) -> None:
    path = write("xnli/dev-de.tsv", "a\tb\tneutral\nc\td\tmaybe\n")
    assert refusal(tmp_path, "xnli", "dev", "de") == (
        f"{path}, line 2: label 'maybe' is not one of entailment, neutral, contradiction; "
        "mend the row, or declare it in [tasks.xnli] label_aliases or unlabelled"
    )


def test_a_file_without_any_gold_label_is_named(write: Write, tmp_path: Path) -> None:
    path = write("xnli/dev-de.tsv", "a\tb\t-\nc\td\t-\n")
    assert (
        refusal(tmp_path, "xnli", "dev", "de") == f"{path}: no usable rows for task 'xnli' in language 'de' (2 dropped)"
    )


def test_parallel_files_of_unequal_length_are_refused(write: Write, tmp_path: Path) -> None:
    path = write("tatoeba/tatoeba.deu-eng.deu", "Hallo.\nJa\n")
    write("tatoeba/tatoeba.deu-eng.eng", "Hello.\n")
    assert refusal(tmp_path, "tatoeba", "test", "de") == (
        f"{path} has 2 lines but tatoeba.deu-eng.eng has 1: line i of one must translate line i of the other"
    )


def test_a_parallel_file_without_its_other_side_is_refused(write: Write, tmp_path: Path) -> None:
    path = write("tatoeba/tatoeba.deu-eng.deu", "Hallo.\n")
    assert refusal(tmp_path, "tatoeba", "test", "de") == f"{path.with_suffix('.eng')}: no such file"


def test_an_unknown_language_is_answered_with_the_valid_ones(tmp_path: Path) -> None:
    assert refusal(tmp_path, "xnli", "test", "nah") == (
        "task 'xnli' has no language 'nah'; valid: ar, bg, de, el, en, es, fr, hi, ru, sw, th, tr, ur, vi, zh"
    )


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, "xnli", "test", "de")
    assert message.startswith("task 'xnli': no test data in language 'de'; looked for xnli/")
    assert message.endswith(f", xnli/test-de.tsv below {tmp_path}")


def test_without_a_data_folder_it_is_asked_for() -> None:
    with pytest.raises(UserError) as error:
        load_examples(CATALOGUE["snli"], "train", "en", DataSource({}, use_hub=False))
    assert str(error.value) == (
        "task 'snli': no train data in language 'en'; set data.root or XLT_SCALE_DATA to the folder that holds it"
    )


def test_a_split_that_the_task_does_not_have_is_said(tmp_path: Path) -> None:
    assert refusal(tmp_path, "tatoeba", "train", "de") == (
        "task 'tatoeba': no train data in language 'de'; the task has no train split"
    )


# Which languages and splits there are


def test_the_languages_of_a_task_are_those_with_a_file(write: Write, tmp_path: Path) -> None:
    write("xnli/dev-sw.tsv", "a\tb\tneutral\n")
    write("targets/xnli/dev-de.tsv", "a\tb\tneutral\n")
    source = DataSource({"": tmp_path}, use_hub=False)
    assert available_languages(CATALOGUE["xnli"], "dev", source) == ["de", "sw"]
    assert available_languages(CATALOGUE["xnli"], "test", source) == []


def test_without_files_the_hub_has_every_declared_language(tmp_path: Path) -> None:
    source = DataSource({"": tmp_path})
    assert available_languages(CATALOGUE["americasnli"], "test", source) == CATALOGUE["americasnli"].languages
    assert available_languages(CATALOGUE["americasnli"], "train", source) == []


def test_a_task_without_declared_languages_has_those_of_its_files(write: Write, tmp_path: Path) -> None:
    for name in ("text/deu.txt", "text/swh.txt", "text/notes.md"):
        write(name, "x\n")
    assert available_languages(CATALOGUE["mlm"], "train", DataSource({"": tmp_path})) == ["deu", "swh"]


def test_a_language_that_a_name_holds_twice_must_be_the_same(write: Write, tmp_path: Path) -> None:
    for name in ("retrieval.qaa-qen.qaa", "retrieval.qaa-qen.qen"):
        write(f"retrieval/{name}", "x\n")
    source = DataSource({"micro": tmp_path})
    assert available_languages(CATALOGUE["micro-retrieval"], "test", source) == ["qaa"]


def test_dev_is_scored_where_there_is_no_test_split(write: Write, tmp_path: Path) -> None:
    source = DataSource({"": tmp_path}, use_hub=False)
    write("xnli/dev-sw.tsv", "a\tb\tneutral\n")
    assert scored_split(CATALOGUE["xnli"], source) == "dev"
    write("xnli/test-sw.tsv", "a\tb\tneutral\n")
    assert scored_split(CATALOGUE["xnli"], source) == "test"
    assert scored_split(CATALOGUE["xnli"], source, "dev") == "dev"


def test_a_task_whose_test_labels_are_hidden_is_scored_on_dev(tmp_path: Path) -> None:
    assert scored_split(CATALOGUE["mnli"], DataSource({"": tmp_path}, use_hub=False)) == "dev"
