"""Small hand-written files in the published layouts of the tasks, enough to train and score every format."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# The beginning of a run file: a model that trains on these files in seconds.
SMALL_MODEL = """
seed = 1
[model]
tokenizer = "train:300"
max_length = 96
[model.architecture]
model_type = "xlm-roberta"
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 64
vocab_size = 400
max_position_embeddings = 514
type_vocab_size = 1
pad_token_id = 1
"""

PLACES = ("Paris", "Nairobi", "Delhi", "Berlin", "Lagos", "Beijing")
# What is said of a place, in languages of other scripts and directions.
SAID = {
    "en": ("The bus to {} is late today.", "Where is the bus going?"),
    "de": ("Der Bus nach {} kommt heute spät.", "Wohin fährt der Bus?"),
    "ar": ("الحافلة إلى {} متأخرة اليوم.", "إلى أين تذهب الحافلة؟"),
    "zh": ("去{}的公共汽车今天晚点了。", "公共汽车去哪里？"),
    "sw": ("Basi la kwenda {} limechelewa leo.", "Basi linaenda wapi?"),
    "hi": ("{} की बस आज देर से है।", "बस कहाँ जा रही है?"),
    "es": ("El autobús a {} llega tarde hoy.", "¿Adónde va el autobús?"),
}
NLI = ("entailment", "neutral", "contradiction")


def write_small_data(root: Path) -> Path:
    """Files of all tasks of launch/runs/real_tasks.toml, and of those of `EXTRA`, below `root`."""
    _write_text(root)
    _write_pairs(root)
    _write_choices(root)
    _write_questions(root)
    _write_tags(root)
    _write_retrieval(root)
    return root


def sentences(language: str, count: int = 24) -> list[str]:
    """Sentences that differ in the place they name, and from the seventh on in a number."""
    pattern = SAID[language][0]
    return [pattern.format(PLACES[i % 6]) + (f" {i // 6}" if i >= 6 else "") for i in range(count)]


def _put(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    _put(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def _write_text(root: Path) -> None:
    for code, language in (("eng", "en"), ("deu", "de"), ("ara", "ar"), ("cmn", "zh"), ("swh", "sw"), ("hin", "hi")):
        _put(root / "text" / f"{code}.txt", [*sentences(language, 60), SAID[language][1]])


def _write_pairs(root: Path) -> None:
    def rows(language: str, labels: Sequence[str], count: int = 24) -> list[tuple[str, str, str]]:
        first = sentences(language, count)
        return [(first[i], first[(i + i % 3) % count], labels[i % len(labels)]) for i in range(count)]

    for split in ("train", "dev", "test"):
        _put(
            root / "snli" / f"{split}.tsv",
            ["sentence1\tsentence2\tgold_label", *("\t".join(row) for row in rows("en", NLI))],
        )
    for number in (1, 2, 3):
        lines = [f"{i},{a},{b},,{label[0]}," for i, (a, b, label) in enumerate(rows("en", NLI))]
        _put(
            root / "anli" / f"ANLI_analysis_r{number}_dev.csv", ["uid,context,statement,reason,gold_label,tags", *lines]
        )
    for language in ("en", "de", "zh", "ar"):
        _put(root / "xnli" / f"dev-{language}.tsv", ("\t".join(row) for row in rows(language, NLI)))
    for language in ("en", "de", "zh"):
        _put(root / "pawsx" / f"dev-{language}.tsv", ("\t".join(row) for row in rows(language, "01")))
    for code in ("quy", "gn"):
        lines = ["\t".join((str(i), code, *row)) for i, row in enumerate(rows("sw", NLI))]
        _put(root / "americasnli" / "test" / f"{code}.tsv", ["id\tlanguage\tpremise\thypothesis\tlabel", *lines])


def _write_choices(root: Path) -> None:
    english, count = sentences("en"), 24
    for split in ("dev", "tst"):
        _json_lines(
            root / "siqa" / f"socialIQa_v1.4_{split}.jsonl",
            (
                {"context": english[i], "question": "What next?", "answerA": "He waits.", "answerB": "He walks."}
                | {"answerC": "He sings.", "correct": "ABC"[i % 3]}
                for i in range(count)
            ),
        )
    for split in ("train", "dev"):
        _json_lines(
            root / "csqa" / f"{split}_rand_split.jsonl",
            (
                {"id": str(i), "question": english[i], "answerKey": "ABCDE"[i % 5]}
                | {"choices": {"label": list("ABCDE"), "text": ["bus", "car", "boat", "bike", "train"]}}
                for i in range(count)
            ),
        )
    lines = [f"{i},{english[i]},Why?,rain,snow,wind,none of these,{i % 4}" for i in range(count)]
    _put(root / "cosmosqa" / "valid.csv", ["id,context,question,answer0,answer1,answer2,answer3,label", *lines])
    items = [
        [f"Travel: {english[i]}", str(i % 4), "he waits.", "he walks.", "he sings.", "he sleeps."] for i in range(24)
    ]
    _put(root / "hellaswag" / "hellaswag_val_full.txt", (line for item in items for line in item))
    for language in ("et", "sw", "zh"):
        texts = sentences("zh" if language == "zh" else "sw")
        for split in ("val", "test"):
            _json_lines(
                root / "xcopa" / language / f"{split}.{language}.jsonl",
                (
                    {"premise": texts[i], "choice1": texts[i - 1], "choice2": texts[i - 2], "label": i % 2, "idx": i}
                    | {"question": ("cause", "effect")[i % 2], "changed": False}
                    for i in range(count)
                ),
            )


def squad(language: str, count: int = 24, unanswerable: bool = False) -> dict[str, Any]:
    """SQuAD's JSON: passages of several sentences, the answer is a place in one of them."""
    texts, paragraphs = sentences(language, 6), []
    for i in range(count):
        place, context = PLACES[i % 6], " ".join(texts[i % 6 :] + texts[: i % 6])
        start = context.index(place)
        answers = [{"text": place, "answer_start": start}]
        question = {"id": f"q{i}", "question": SAID[language][1], "answers": answers}
        if unanswerable:
            question |= {"is_impossible": bool(i % 2), "answers": [] if i % 2 else answers}
        paragraphs.append({"context": context, "qas": [question]})
    return {"version": "1.1", "data": [{"title": "buses", "paragraphs": paragraphs}]}


def _with_sentences(table: dict[str, Any]) -> dict[str, Any]:
    """XQuAD-R: SQuAD's JSON with the sentences of each passage and where they lie."""
    for paragraph in table["data"][0]["paragraphs"]:
        context, breaks, start = paragraph["context"], [], 0
        for mark in [i + 1 for i, character in enumerate(context) if character in ".。।"]:
            breaks.append([start, mark])
            start = mark + (mark < len(context) and context[mark] == " ")
        paragraph["sentence_breaks"] = breaks
        paragraph["sentences"] = [context[first:last] for first, last in breaks]
    return table


def _write_questions(root: Path) -> None:
    def put(name: str, table: dict[str, Any]) -> None:
        _put(root / name, [json.dumps(table, ensure_ascii=False)])

    put("tydiqa/tydiqa-goldp-v1.1-train/tydiqa.goldp.en.train.json", squad("en"))
    for language in ("en", "ar", "sw"):
        put(f"tydiqa/tydiqa-goldp-v1.1-dev/tydiqa.goldp.{language}.dev.json", squad(language))
    for language in ("en", "de", "es", "ar", "zh", "hi"):
        put(f"xquad/xquad.{language}.json", squad(language))
        put(f"lareqa/xquad-r/{language}.json", _with_sentences(squad(language)))
    for language in ("en", "de", "ar", "zh"):
        put(f"mlqa/MLQA_V1/dev/dev-context-{language}-question-{language}.json", squad(language))
    for split in ("train", "dev"):
        put(f"squad/{split}-v2.0.json", squad("en", unanswerable=True))
    put("squad/train-v1.1.json", squad("en"))
    words = [text.replace(".", " .").split() for text in sentences("en", 6)]
    _put(root / "qamr" / "wiki-sentences.tsv", (f"S:{i}\t{' '.join(tokens)}" for i, tokens in enumerate(words)))
    rows = (f"S:{i}\t3\t1\t0\t0\tWhere is the bus going?\t3\t1:3\t2:3" for i in range(len(words)))
    _put(root / "qamr" / "dev.tsv", rows)


def _write_tags(root: Path) -> None:
    tagged = {
        "en": ("The DET/bus NOUN/to ADP/{} PROPN/is AUX/late ADJ/. PUNCT", "en_ewt", "UD_English-EWT"),
        "de": ("Der DET/Bus NOUN/nach ADP/{} PROPN/kommt VERB/spät ADV/. PUNCT", "de_gsd", "UD_German-GSD"),
        "zh": ("去 VERB/{} PROPN/的 PART/公共汽车 NOUN/晚点 VERB/。 PUNCT", "zh_gsd", "UD_Chinese-GSD"),
    }
    for pattern, code, treebank in tagged.values():
        lines: list[str] = []
        for place in PLACES * 3:
            for i, token in enumerate(pattern.format(place).split("/"), start=1):
                word, tag = token.split(" ")
                lines.append(f"{i}\t{word}\t{word}\t{tag}\t_\t_\t0\troot\t_\t_")
            lines.append("")
        for split in ("train", "dev", "test"):
            _put(root / "udpos" / treebank / f"{code}-ud-{split}.conllu", lines)
    for language in ("pcm", "swa", "yor"):
        lines = [line for place in PLACES * 3 for line in (f"Dem O\n{place} B-LOC\ndon O\ncome O\n").split("\n")]
        for split in ("train", "dev", "test"):
            _put(root / "masakhaner" / language / f"{split}.txt", lines)
    for language in ("en", "de"):
        lines = [
            line for place in PLACES * 3 for line in (f"{language}:In\tO\n{language}:{place}\tB-LOC\n").split("\n")
        ]
        for split in ("train", "dev", "test"):
            _put(root / "panx" / language / split, lines)
    for split in ("train", "dev"):
        _put(root / "ccg" / f"{split}.tsv", [line for _ in range(8) for line in ("Buses\tN", "go\tS[dcl]\\NP", "")])


def _write_retrieval(root: Path) -> None:
    for code, language in (("deu", "de"), ("cmn", "zh"), ("ara", "ar")):
        _put(root / "tatoeba" / f"tatoeba.{code}-eng.{code}", sentences(language))
        _put(root / "tatoeba" / f"tatoeba.{code}-eng.eng", sentences("en"))
    for split in ("dev", "test"):
        for language in ("de", "zh"):
            for code in (language, "en"):
                numbered = enumerate(sentences(code, 12))
                path = root / "bucc2018" / f"{language}-en.{split}.{code}"
                _put(path, (f"{code}-{i}\t{text}" for i, text in numbered))
            _put(
                root / "bucc2018" / f"{language}-en.{split}.gold",
                (f"{language}-{i}\ten-{i}" for i in range(8)),
            )
    _write_entities(root / "mewslix")


def _write_entities(folder: Path) -> None:
    def mention(language: str, i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        text, place = sentences(language, 6)[i], PLACES[i]
        start = text.index(place)
        span = {"start": start, "end": start + len(place), "text": place}
        context = {"document_id": f"{language}-{i}", "language": language, "text": text}
        context["sentence_spans"] = [{"start": 0, "end": len(text)}]
        return context, {"example_id": f"{language}-{i}", "mention_span": span, "entity_id": f"Q{i}"}

    entities = [
        {"entity_id": f"Q{i}", "title": place, "description": f"{place} is a city."} for i, place in enumerate(PLACES)
    ]
    pairs = []
    for i, entity in enumerate(entities):
        context, one = mention("en", i)
        pairs.append({"contextual_mention": {"context": context, "mention": one}, "entity": entity})
    _json_lines(folder / "wikipedia_pairs-train.jsonl", pairs)
    _json_lines(folder / "candidate_set_entities.jsonl", entities)
    for split in ("dev", "test"):
        articles = []
        for language in ("en", "de", "ar"):
            for i in range(len(PLACES)):
                context, one = mention(language, i)
                articles.append({"context": context, "mentions": [one]})
        _json_lines(folder / f"wikinews_mentions-{split}.jsonl", articles)
