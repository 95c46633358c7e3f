"""Question-answering scores in many languages, each number worked out by hand from the public rules."""

import pytest

from xlt_scale.evaluation.scorers import SCORERS
from xlt_scale.evaluation.scorers.mlqa import mlqa_tokens
from xlt_scale.evaluation.scorers.squad import score_squad_v2, squad_tokens


def _one(metric: str, prediction: str, references: list[str], language: str) -> tuple[float, float]:
    values = SCORERS[metric].score({"q": prediction}, {"q": references}, language).values
    return values["exact_match"], values["f1"]


@pytest.mark.parametrize(
    ("language", "prediction", "references", "exact_match", "f1"),
    [
        ("en", "The Denver Broncos!", ["Denver Broncos"], 100, 100),
        ("en", "a cat and the dog", ["cat dog"], 0, 80),  # cat and dog | cat dog
        ("en", "Anthem", ["them"], 0, 0),  # articles are whole words
        ("en", "to be", ["not to be", "to be or not to be"], 0, 80),  # best of 2*2/5 and 2*2/8
        ("de", "die Stadt Köln", ["Stadt Köln"], 0, 80),  # German articles stay
        ("de", "„Köln“", ["Köln"], 0, 0),  # and so do quotation marks beyond ASCII
        ("es", "¿el perro?", ["el perro"], 0, 50),  # ¿el perro | el perro
        ("fi", "a 4000 eaa.", ["4000 EAA"], 100, 100),  # 'a' goes in every language
        ("vi", "Hà Nội", ["thủ đô Hà Nội"], 0, 200 / 3),  # 2 of 2, 2 of 4
        ("ar", "الملك فاروق", ["فاروق"], 0, 200 / 3),
        ("ar", "القاهرة،", ["القاهرة"], 0, 0),  # the Arabic comma is not ASCII
        ("he", "ירושלים.", ["ירושלים"], 100, 100),
        ("hi", "नई दिल्ली।", ["नई दिल्ली"], 0, 50),  # the danda stays: दिल्ली। is another token
        ("bn", "ঢাকা শহর", ["ঢাকা"], 0, 200 / 3),
        ("ru", "в МОСКВЕ", ["в Москве"], 100, 100),
        ("el", "Η Αθήνα", ["η Αθήνα"], 100, 100),
        ("te", "హైదరాబాద్ నగరం", ["నగరం హైదరాబాద్"], 0, 100),  # F1 knows no order
        ("ko", "서울", ["서울시"], 0, 0),
        ("th", "กรุงเทพ", ["กรุงเทพมหานคร"], 0, 0),  # no blanks: one token
        ("ja", "東京", ["東京"], 100, 100),
        ("zh", "北京市", ["北京"], 0, 0),
        ("sw", "Dar es Salaam", ["Dar-es-Salaam"], 0, 0),  # daressalaam
        ("tr", "İstanbul", ["istanbul"], 0, 0),  # lower() of İ keeps a dot
    ],
)
def test_squad_rules_are_english_rules_in_every_language(
    language: str, prediction: str, references: list[str], exact_match: float, f1: float
) -> None:
    assert _one("squad", prediction, references, language) == (pytest.approx(exact_match), pytest.approx(f1))


@pytest.mark.parametrize(
    ("language", "prediction", "references", "exact_match", "f1"),
    [
        ("en", "the Nile", ["Nile"], 100, 100),
        ("de", "die Stadt „Köln“", ["Stadt Köln"], 100, 100),
        ("de", "a Köln", ["Köln"], 0, 200 / 3),  # English articles stay in German
        ("es", "¿Los Ángeles?", ["Ángeles"], 100, 100),
        ("vi", "những con mèo", ["con mèo"], 100, 100),
        ("ar", "القاهرة،", ["قاهرة"], 100, 100),
        ("ar", "خالد", ["خ د"], 100, 100),  # the article's letters go within a word too, which falls apart
        ("hi", "नई दिल्ली।", ["नई दिल्ली"], 100, 100),
        ("zh", "北京市", ["北京"], 0, 80),  # 2 of 3 and 2 of 2 characters
        ("zh", "《红楼梦》", ["红楼梦"], 100, 100),
        ("zh", "NBA总决赛", ["nba 总冠军"], 0, 50),  # nba 总 决 赛 | nba 总 冠 军
        ("zh", "1990年3月", ["1990 年"], 0, 200 / 3),  # 1990 年 3 月 | 1990 年
    ],
)
def test_mlqa_rules_depend_on_the_language(
    language: str, prediction: str, references: list[str], exact_match: float, f1: float
) -> None:
    assert _one("mlqa", prediction, references, language) == (pytest.approx(exact_match), pytest.approx(f1))


def test_mlqa_has_no_rules_for_other_languages() -> None:
    with pytest.raises(ValueError, match=r"no rules for the language 'fr'; .*metric squad"):
        _one("mlqa", "x", ["x"], "fr")


def test_combining_marks_are_kept_as_they_are_written() -> None:
    assert squad_tokens("Cafe\u0301") != squad_tokens("Café")
    assert mlqa_tokens("हिन्दी", "hi") == ["हिन्दी"]


def test_tokens_count_as_often_as_they_occur() -> None:
    assert _one("squad", "x x x", ["x x y"], "en") == (0.0, pytest.approx(200 / 3))


def test_an_empty_answer_matches_only_a_reference_that_normalises_to_nothing() -> None:
    assert _one("squad", "", ["the"], "en") == (100.0, 0.0)
    assert _one("squad", "", ["Nile"], "en") == (0.0, 0.0)


def test_a_question_without_prediction_scores_0_and_is_counted() -> None:
    score = SCORERS["squad"].score({"a": "x", "z": "x"}, {"a": ["x"], "b": ["x"]}, "en")
    assert score.values == {"f1": 50.0, "exact_match": 50.0, "missing": 1.0, "unexpected": 1.0}
    assert score.items["exact_match"].tolist() == [1, 0]


def test_a_question_without_reference_is_for_squad_v2() -> None:
    with pytest.raises(ValueError, match=r"'q' has no reference answer.*squad_v2"):
        _one("squad", "x", [], "en")


NO_ANSWER = {"a": ["Köln am Rhein"], "b": [], "c": ["東京"], "d": []}


def test_squad_v2_rewards_silence_where_there_is_no_answer() -> None:
    score = score_squad_v2({"a": "Köln", "b": "", "c": "東京", "d": "Москва"}, NO_ANSWER)
    # by question: F1 1/2, 1, 1, 0; exact 0, 1, 1, 0
    assert score.values["f1"] == pytest.approx(62.5)
    assert score.values["exact_match"] == pytest.approx(50.0)
    assert score.values["has_answer_f1"] == pytest.approx(75.0)
    assert score.values["has_answer_exact_match"] == pytest.approx(50.0)
    assert score.values["no_answer_f1"] == score.values["no_answer_exact_match"] == pytest.approx(50.0)


def test_squad_v2_takes_references_of_nothing_but_articles_as_no_answer() -> None:
    assert score_squad_v2({"q": "", "r": ""}, {"q": ["the"], "r": ["the", "x"]}).values["f1"] == pytest.approx(50.0)


def test_squad_v2_scores_a_missing_question_0_even_without_answer() -> None:
    values = score_squad_v2({}, {"q": []}).values
    assert (values["f1"], values["missing"]) == (0.0, 1.0)


def test_squad_v2_finds_the_best_threshold_for_no_answer() -> None:
    predictions = {"a": "Köln", "b": "Wien", "c": "東京", "d": "Москва"}
    scores = {"a": 0.5, "b": 0.4, "c": -2.0, "d": 3.0}
    # silence everywhere: 2 right; admitting c: 3; then b: 2; then a: F1 2.5
    values = score_squad_v2(predictions, NO_ANSWER, no_answer_scores=scores).values
    assert (values["best_f1"], values["best_f1_threshold"]) == (75.0, -2.0)
    assert (values["best_exact_match"], values["best_exact_match_threshold"]) == (75.0, -2.0)


def test_squad_v2_stays_silent_when_no_threshold_is_better() -> None:
    values = score_squad_v2({"b": "x"}, {"b": []}, no_answer_scores={"b": -1.0}).values
    assert (values["best_f1"], values["best_f1_threshold"]) == (100.0, 0.0)
