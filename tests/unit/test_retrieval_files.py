"""Bitext mining, and queries with candidates: LAReQA, SQuAD as retrieval, Mewsli-X."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import BitextExamples, RankingExamples
from xlt_scale.tasks.loading import DataSource, load_candidates, load_examples
from xlt_scale.tasks.sentence_splitting import sentence_breaks
from xlt_scale.tasks.spec import Split, TaskSpec

Write = Callable[[str, str], Path]

BUCC = load_catalogue(
    {
        "own": {
            "kind": "bitext_mining",
            "languages": ["de"],
            "files": [
                {
                    "split": "test",
                    "pattern": "bucc/{language}-en.{language}",
                    "format": "bitext",
                    "pair_pattern": "bucc/{language}-en.en",
                    "gold_pattern": "bucc/{language}-en.gold",
                }
            ],
        }
    }
)["own"]


def load(spec: TaskSpec, root: Path, split: Split = "test", language: str = "de") -> Any:
    return load_examples(spec, split, language, DataSource({"": root}, use_hub=False))


def refusal(spec: TaskSpec, root: Path, language: str = "de") -> str:
    with pytest.raises(UserError) as error:
        load(spec, root, language=language)
    message = str(error.value)
    assert "\n" not in message
    return message.removeprefix(f"{root}/")


def test_the_sides_and_the_gold_pairs_of_a_bitext(write: Write, tmp_path: Path) -> None:
    write("bucc/de-en.de", "de-1\tHallo.\nde-2\tJa.\n")
    write("bucc/de-en.en", "en-7\tYes.\nen-8\tNo.\n")
    write("bucc/de-en.gold", "de-2\ten-7\n")
    assert load(BUCC, tmp_path) == BitextExamples(
        ["de-1", "de-2"], ["Hallo.", "Ja."], ["en-7", "en-8"], ["Yes.", "No."], [("de-2", "en-7")]
    )


def test_sentences_that_occur_again_are_dropped_and_counted(write: Write, tmp_path: Path) -> None:
    write("bucc/de-en.de", "de-1\tJa.\nde-2\tJa.\nde-3\tNein.\n")
    write("bucc/de-en.en", "en-7\tYes.\nen-8\tNo.\nen-9\tYes.\n")
    write("bucc/de-en.gold", "de-2\ten-7\n")
    examples = load(BUCC, tmp_path)
    assert (examples.ids, examples.source_ids) == (["de-1", "de-3"], ["en-7", "en-8"])
    assert examples.gold_pairs == [("de-2", "en-7")]
    assert examples.num_dropped == 2


@pytest.mark.parametrize(
    ("german", "gold", "message"),
    [
        ("de-1 Ja.\n", "de-1\ten-7\n", "bucc/de-en.de, line 1: expected an id, a tab, and a sentence"),
        (
            "de-1\tJa.\nde-1\tNein.\n",
            "de-1\ten-7\n",
            "bucc/de-en.de, line 2: id 'de-1' is there twice; ids name the sentences",
        ),
        (
            "de-1\tJa.\n",
            "de-1\ten-9\n",
            "bucc/de-en.gold, line 1: 'en-9' is no id of de-en.en; do the files belong together?",
        ),
    ],
)
def test_a_broken_bitext_is_named(write: Write, tmp_path: Path, german: str, gold: str, message: str) -> None:
    write("bucc/de-en.de", german)
    write("bucc/de-en.en", "en-7\tYes.\n")
    write("bucc/de-en.gold", gold)
    assert refusal(BUCC, tmp_path) == message


def test_a_bitext_without_its_gold_pairs_is_refused(write: Write, tmp_path: Path) -> None:
    write("bucc/de-en.de", "de-1\tJa.\n")
    write("bucc/de-en.en", "en-7\tYes.\n")
    assert refusal(BUCC, tmp_path) == "bucc/de-en.gold: no such file"


def ranking(split: Split = "test", **fields: Any) -> TaskSpec:
    layout = {"split": split, "pattern": "{language}.json", "format": "squad_sentences"}
    return load_catalogue({"own": {"kind": "dual_encoding", "files": [layout]} | fields})["own"]


def passages(*contexts: str, breaks: list[list[list[int]]] | None = None, answer: str = "x") -> str:
    """SQuAD's JSON: one question about each passage, whose answer is `answer`."""
    paragraphs = []
    for number, context in enumerate(contexts):
        answers = [{"text": answer, "answer_start": context.index(answer)}]
        paragraph: dict[str, Any] = {"context": context, "qas": [{"id": f"q{number}", "question": f"{number}?"}]}
        paragraph["qas"][0]["answers"] = answers
        if breaks is not None:
            paragraph["sentence_breaks"] = breaks[number]
            paragraph["sentences"] = [context[begin:end] for begin, end in breaks[number]]
        paragraphs.append(paragraph)
    return json.dumps({"data": [{"paragraphs": paragraphs}]})


def test_every_sentence_is_a_candidate_and_that_of_the_answer_is_gold(write: Write, tmp_path: Path) -> None:
    write("de.json", passages("A b. C x.", "x! D", breaks=[[[0, 4], [5, 9]], [[0, 2], [3, 4]]]))
    examples = load(ranking(), tmp_path)
    assert examples == RankingExamples(
        query_ids=["q0", "q1"],
        queries=["0?", "1?"],
        gold=[["de:0:1"], ["de:1:0"]],
        candidate_ids=["de:0:0", "de:0:1", "de:1:0", "de:1:1"],
        candidates=["A b.", "C x.", "x!", "D"],
        candidate_contexts=["A b. C x."] * 2 + ["x! D"] * 2,
    )


def test_sentences_are_found_where_the_file_does_not_say_them(write: Write, tmp_path: Path) -> None:
    write("de.json", passages("A b. C x.", "Nur x"))
    examples = load(ranking("train"), tmp_path, "train")
    assert examples.candidates == ["A b.", "C x.", "Nur x"]
    assert examples.gold == [["de:0:1"], ["de:1:0"]]


@pytest.mark.parametrize("breaks", [[[0, 99]], [[0]], [], "x"])
def test_sentences_that_the_passage_does_not_have_are_refused(write: Write, tmp_path: Path, breaks: Any) -> None:
    content = json.loads(passages("A x."))
    content["data"][0]["paragraphs"][0]["sentence_breaks"] = breaks
    write("de.json", json.dumps(content))
    assert refusal(ranking(), tmp_path) == (
        "de.json, question 'q0': sentence_breaks of its passage are no list of [begin, end]; fetch the file again"
    )


def test_questions_without_an_answer_are_dropped_and_counted(write: Write, tmp_path: Path) -> None:
    content = json.loads(passages("A b. C x.", "Nur x"))
    content["data"][0]["paragraphs"][0]["qas"][0] |= {"answers": [], "is_impossible": True}
    write("de.json", json.dumps(content))
    examples = load(ranking(), tmp_path)
    assert (examples.query_ids, examples.num_dropped, len(examples.candidates)) == (["q1"], 1, 3)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("Pi is 3.14 today. Yes", ["Pi is 3.14 today.", "Yes"]),
        ('He said "no." She left.', ['He said "no."', "She left."]),
        ("他来了。她走了！真的？是", ["他来了。", "她走了！", "真的？", "是"]),
        ("वह आया। वह गया।", ["वह आया।", "वह गया।"]),
        ("هل جاء؟ نعم.", ["هل جاء؟", "نعم."]),
        ("  no end  ", ["no end"]),
    ],
)
def test_sentences_end_at_their_marks(text: str, sentences: list[str]) -> None:
    assert [text[begin:end] for begin, end in sentence_breaks(text)] == sentences


def test_the_pool_of_a_parallel_task_joins_the_answers_of_all_languages(write: Write, tmp_path: Path) -> None:
    write("de.json", passages("A b. C x.", "Nur x"))
    write("sw.json", passages("x moja. Mbili.", "x"))
    pool = load_candidates(ranking(parallel=True), "test", DataSource({"": tmp_path}, use_hub=False), ["de", "sw"])
    assert pool.candidate_ids == ["de:0:0", "de:0:1", "de:1:0", "sw:0:0", "sw:0:1", "sw:1:0"]
    assert pool.candidates == ["A b.", "C x.", "Nur x", "x moja.", "Mbili.", "x"]
    assert dict(zip(pool.query_ids, pool.gold, strict=True)) == {
        "q0": ["de:0:1", "sw:0:0"],
        "q1": ["de:1:0", "sw:1:0"],
    }


def test_the_pool_of_a_task_that_is_not_parallel_has_no_queries_of_its_own(write: Write, tmp_path: Path) -> None:
    for language in ("de", "sw"):
        write(f"{language}.json", passages("A b. C x."))
    pool = load_candidates(ranking(), "test", DataSource({"": tmp_path}, use_hub=False), ["de", "sw"])
    assert (len(pool.candidates), pool.query_ids, pool.gold) == (4, [], [])


def test_several_files_of_one_language_do_not_share_names(write: Write, tmp_path: Path) -> None:
    content = json.loads(passages("A x."))
    write("1.json", json.dumps(content))
    content["data"][0]["paragraphs"][0]["qas"][0]["id"] = "other"
    write("2.json", json.dumps(content))
    layout = {"split": "test", "pattern": "*.json", "format": "squad", "languages": ["de"]}
    examples = load(ranking(files=[layout]), tmp_path)
    assert examples.candidate_ids == ["de:0:0", "de.1:0:0"]
    assert examples.gold == [["de:0:0"], ["de.1:0:0"]]


MEWSLI = load_catalogue(
    {
        "own": {
            "kind": "dual_encoding",
            "languages": ["en", "de"],
            "files": [
                {"split": "train", "pattern": "pairs.jsonl", "format": "mentions", "languages": ["en"]},
                {"split": "test", "pattern": "mentions.jsonl", "format": "mentions"},
                {"split": "test", "pattern": "entities.jsonl", "format": "candidates"},
            ],
        }
    }
)["own"]
TEXT = "Erster Satz. Der Bus in Helsinki steht. Ende."


def article(language: str, text: str = TEXT, mention: str = "Helsinki", name: str = "m1") -> dict[str, Any]:
    spans = [{"start": 0, "end": 12}, {"start": 13, "end": 39}, {"start": 40, "end": 45}]
    start = TEXT.index("Helsinki")
    return {
        "context": {"document_id": "d", "language": language, "text": text, "sentence_spans": spans},
        "mentions": [
            {
                "example_id": name,
                "mention_span": {"start": start, "end": start + len("Helsinki"), "text": mention},
                "entity_id": "Q1757",
            }
        ],
    }


def test_a_mention_is_asked_for_in_its_sentence(write: Write, tmp_path: Path) -> None:
    write("mentions.jsonl", "".join(json.dumps(article(code, name=code)) + "\n" for code in ("de", "en")))
    examples = load(MEWSLI, tmp_path)
    assert examples.query_ids == ["de"]
    assert examples.queries == ["Helsinki: Der Bus in { Helsinki } steht."]
    assert examples.gold == [["Q1757"]]
    assert examples.candidate_ids == []


def test_the_entities_are_one_pool_for_all_languages(write: Write, tmp_path: Path) -> None:
    rows = [{"entity_id": "Q1757", "description": "Hauptstadt"}, {"entity_id": "Q2", "description": "Planet"}]
    write("entities.jsonl", "".join(json.dumps(row | {"title": "t"}) + "\n" for row in rows))
    pool = load_candidates(MEWSLI, "test", DataSource({"": tmp_path}, use_hub=False), ["de", "en"])
    assert (pool.candidate_ids, pool.candidates) == (["Q1757", "Q2"], ["Hauptstadt", "Planet"])
    assert (pool.query_ids, pool.candidate_contexts) == ([], None)


def test_training_pairs_bring_their_entities(write: Write, tmp_path: Path) -> None:
    entity = {"entity_id": "Q1757", "description": "capital of Finland", "title": "Helsinki"}
    rows = []
    for name in ("a", "b"):
        pair = article("en", name=name)
        mention = {"context": pair["context"], "mention": pair["mentions"][0]}
        rows.append(json.dumps({"contextual_mention": mention, "entity": entity}))
    write("pairs.jsonl", "\n".join(rows))
    examples = load(MEWSLI, tmp_path, "train", "en")
    assert (examples.query_ids, examples.gold) == (["a", "b"], [["Q1757"], ["Q1757"]])
    assert (examples.candidate_ids, examples.candidates) == (["Q1757"], ["capital of Finland"])


def test_articles_without_their_text_are_refused_with_the_mend(write: Write, tmp_path: Path) -> None:
    write("mentions.jsonl", json.dumps(article("de", text="")) + "\n")
    assert refusal(MEWSLI, tmp_path) == (
        "mentions.jsonl, line 1: the article has no text; put the texts back with the publisher's get-mewsli-x.sh"
    )


def test_a_mention_that_is_not_in_its_text_is_refused(write: Write, tmp_path: Path) -> None:
    write("mentions.jsonl", json.dumps(article("de", mention="Espoo")) + "\n")
    assert refusal(MEWSLI, tmp_path) == (
        "mentions.jsonl, line 1: the text has 'Helsinki' where the mention 'Espoo' should be"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"entity_id": "Q1"}], "entities.jsonl, line 1: no column 'description'; the row has: entity_id"),
        (
            [{"entity_id": "Q1", "description": "x"}] * 2,
            "entities.jsonl, line 2: candidate 'Q1' is there twice; ids name the candidates",
        ),
    ],
)
def test_broken_candidates_are_named(write: Write, tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    write("entities.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as error:
        load_candidates(MEWSLI, "test", DataSource({"": tmp_path}, use_hub=False), ["de"])
    assert str(error.value).removeprefix(f"{tmp_path}/") == message
