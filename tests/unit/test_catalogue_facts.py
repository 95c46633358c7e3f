"""What the catalogue says about published data: languages, training data, overlaps, and the files themselves."""

import os
from collections import Counter
from pathlib import Path

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.languages import LANGUAGES
from xlt_scale.tasks.loading import DataSource, available_languages, load_examples
from xlt_scale.tasks.spec import Split, TaskSpec

CATALOGUE = load_catalogue()
DATA = os.environ.get("XLT_SCALE_DATA", "")
_INTERMEDIATE = (
    "anli-plus anli snli mnli qqp squad squad-v2 hellaswag ccg cosmosqa commonsenseqa siqa mlm paws qamr imdb copa "
    "squad-retrieval"
)
_TARGETS = "xnli pawsx udpos panx xquad mlqa tydiqa bucc2018 tatoeba xcopa mewslix lareqa americasnli masakhaner"
INTERMEDIATE = _INTERMEDIATE.split()
TARGETS = _TARGETS.split()

# The evaluators' lists, in their order: XTREME's, then what XTREME-R adds.
LANGUAGES_OF = {
    "xnli": "ar bg de el en es fr hi ru sw th tr ur vi zh",
    "pawsx": "de en es fr ja ko zh",
    "xcopa": "et ht id it qu sw ta th tr vi zh",
    "udpos": "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh "
    "lt pl uk wo ro",
    "panx": "ar he vi id jv ms tl eu ml ta te af nl en de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw yo my zh "
    "kk tr et fi hu qu pl uk az lt pa gu ro",
    "xquad": "en es de el ru tr ar vi th zh hi ro",
    "mlqa": "en es de ar hi vi zh",
    "tydiqa": "en ar bn fi id ko ru sw te",
    "bucc2018": "de fr ru zh",
    "tatoeba": "ar he vi id jv tl eu ml ta te af nl de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw zh kk tr et "
    "fi hu az lt pl uk ro",
    "mewslix": "ar de en es fa ja pl ro ta tr uk",
    "lareqa": "ar de el en es hi ru th tr vi zh",
}
NUM_LANGUAGES = {
    "xnli": 15,
    "pawsx": 7,
    "xcopa": 11,
    "udpos": 38,
    "panx": 48,
    "xquad": 12,
    "mlqa": 7,
    "tydiqa": 9,
    "bucc2018": 4,
    "tatoeba": 41,
    "mewslix": 11,
    "lareqa": 11,
}
BENCHMARKED = {code for codes in LANGUAGES_OF.values() for code in codes.split()}

# The languages in the table of the XLM-R release, by the names used there.
SEEN = """
Afrikaans Albanian Amharic Arabic Armenian Assamese Azerbaijani Basque Belarusian Bengali Bosnian Breton Bulgarian
Burmese Catalan Chinese Croatian Czech Danish Dutch English Esperanto Estonian Filipino Finnish French Galician Georgian
German Greek Gujarati Hausa Hebrew Hindi Hungarian Icelandic Indonesian Irish Italian Japanese Javanese Kannada Kazakh
Khmer Korean Kurdish Kyrgyz Lao Latin Latvian Lithuanian Macedonian Malagasy Malay Malayalam Marathi Mongolian Nepali
Norwegian Oriya Oromo Pashto Persian Polish Portuguese Punjabi Romanian Russian Sanskrit Serbian Sindhi Sinhala Slovak
Slovenian Somali Spanish Sundanese Swahili Swedish Tamil Telugu Thai Turkish Ukrainian Urdu Uyghur Uzbek Vietnamese
Welsh Xhosa Yiddish
"""


def published(*, trainable: bool = False) -> list[TaskSpec]:
    """Tasks of published data."""
    return [spec for spec in CATALOGUE.values() if not spec.generator and (spec.is_trainable or not trainable)]


@pytest.mark.parametrize("name", INTERMEDIATE + TARGETS)
def test_every_task_of_the_study_is_declared(name: str) -> None:
    assert name in CATALOGUE


@pytest.mark.parametrize("name", LANGUAGES_OF)
def test_targets_have_the_languages_of_the_evaluators_in_their_order(name: str) -> None:
    assert CATALOGUE[name].languages == LANGUAGES_OF[name].split()
    assert len(CATALOGUE[name].languages) == NUM_LANGUAGES[name]


def test_americasnli_has_ten_languages_and_masakhaner_ten() -> None:
    assert len(CATALOGUE["americasnli"].languages) == len(CATALOGUE["masakhaner"].languages) == 10


def test_the_benchmarks_have_fifty_languages_of_fourteen_families_and_two_isolates() -> None:
    assert len(BENCHMARKED) == 50
    families = {LANGUAGES[code].family for code in BENCHMARKED}
    indo_european = [code for code in BENCHMARKED if LANGUAGES[code].family.startswith("IE ")]
    isolates = [code for code in BENCHMARKED if LANGUAGES[code].family.startswith("isolate")]
    assert len(indo_european) == 22
    assert sorted(isolates) == ["eu", "ko"]
    others = {family for family in families if not family.startswith(("IE ", "isolate"))}
    assert len(others | {"Indo-European"}) == 14


def test_four_languages_of_the_benchmarks_were_not_seen_in_pre_training() -> None:
    assert {code for code in BENCHMARKED if not LANGUAGES[code].seen} == {"ht", "qu", "wo", "yo"}


def test_seen_languages_are_those_of_the_xlm_r_release() -> None:
    micro = {spec.source_language for spec in CATALOGUE.values() if spec.generator}
    for code, language in LANGUAGES.items():
        if language.family.startswith("micro ") or code in micro:
            continue
        name = "Filipino" if language.name == "Tagalog" else language.name
        assert language.seen == (name in SEEN.split()), code


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_task_says_what_it_asks_where_its_text_is_from_and_its_licence(name: str) -> None:
    spec = CATALOGUE[name]
    assert spec.type and spec.description and spec.source_text and spec.licence


@pytest.mark.parametrize("name", CATALOGUE)
def test_overlaps_name_known_tasks_and_begin_with_what_is_shared(name: str) -> None:
    for other, what in CATALOGUE[name].overlaps.items():
        assert other in CATALOGUE
        assert other != name
        assert what.split(":")[0] in ("same training data", "same items", "same passages", "format only")


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "mlm"])
def test_overlaps_are_said_on_both_sides(name: str) -> None:
    for other in CATALOGUE[name].overlaps:
        assert name in CATALOGUE[other].overlaps, f"{other} does not name {name}"


@pytest.mark.parametrize(
    ("target", "others"),
    [
        ("xnli", ["mnli", "anli-plus"]),
        ("xquad", ["squad", "squad-v2", "lareqa", "mlm"]),
        ("mlqa", ["squad", "squad-v2", "mlm"]),
        ("lareqa", ["squad", "squad-v2", "xquad"]),
        ("xcopa", ["siqa", "copa"]),
        ("pawsx", ["qqp", "paws"]),
        ("tydiqa", ["squad", "squad-v2", "mlm"]),
        ("panx", ["mlm"]),
        ("mewslix", ["mlm"]),
    ],
)
def test_cells_of_the_same_data_are_flagged(target: str, others: list[str]) -> None:
    assert set(others) <= set(CATALOGUE[target].overlaps)


def test_the_same_format_is_told_from_the_same_data() -> None:
    for name in ("squad", "squad-v2"):
        assert CATALOGUE["tydiqa"].overlaps[name].startswith("format only")


@pytest.mark.parametrize(
    ("target", "training"),
    [
        ("xnli", ["mnli"]),
        ("americasnli", ["mnli"]),
        ("pawsx", ["pawsx"]),
        ("udpos", ["udpos"]),
        ("panx", ["panx"]),
        ("xquad", ["squad"]),
        ("mlqa", ["squad"]),
        ("tydiqa", ["tydiqa"]),
        ("xcopa", ["siqa", "copa"]),
        ("lareqa", ["squad-retrieval"]),
        ("mewslix", ["mewslix"]),
        ("masakhaner", ["masakhaner"]),
        ("bucc2018", []),
        ("tatoeba", []),
    ],
)
def test_targets_are_trained_by_what_the_benchmark_prescribes(target: str, training: list[str]) -> None:
    assert CATALOGUE[target].trained_by == training


@pytest.mark.parametrize("name", TARGETS)
def test_what_trains_a_target_shares_its_head(name: str) -> None:
    target = CATALOGUE[name]
    for other in target.trained_by:
        training = CATALOGUE[other]
        assert training.is_trainable
        assert (training.head, training.kind) == (target.head, target.kind)
        assert has_split(training, "train")


def has_split(spec: TaskSpec, split: Split) -> bool:
    """Whether the declaration says where the split is, by itself or by its parts."""
    own = any(layout.split == split for layout in spec.files) or any(split in hub.splits for hub in spec.hub)
    return own or bool(spec.parts and all(has_split(CATALOGUE[part], split) for part in spec.parts))


@pytest.mark.parametrize("spec", published(trainable=True), ids=lambda spec: spec.name)
def test_tasks_that_share_a_head_share_its_kind_and_classes(spec: TaskSpec) -> None:
    for other in CATALOGUE.values():
        if other.head == spec.head and other.is_trainable:
            assert other.kind == spec.kind
            # Choices are scored one by one: their number may differ.
            assert spec.kind == "multiple_choice" or other.labels == spec.labels


@pytest.mark.parametrize("name", INTERMEDIATE)
def test_every_intermediate_task_has_training_data(name: str) -> None:
    assert CATALOGUE[name].is_trainable
    assert has_split(CATALOGUE[name], "train")


@pytest.mark.parametrize("spec", [spec for spec in published() if spec.translations], ids=lambda spec: spec.name)
def test_translations_have_files_of_their_own(spec: TaskSpec) -> None:
    for part in [CATALOGUE[part] for part in spec.parts] or [spec]:
        assert any("{language}" in layout.pattern for layout in part.files if layout.split == "train")


def test_anli_plus_is_the_union_of_three_tasks_with_one_head() -> None:
    union = CATALOGUE["anli-plus"]
    assert union.parts == ["anli", "mnli", "snli"]
    assert {CATALOGUE[part].head for part in union.parts} == {union.head} == {"nli"}


def test_ccg_names_a_free_substitute_and_no_place_on_the_hub() -> None:
    assert CATALOGUE["ccg"].substitute == "udpos"
    assert not CATALOGUE["ccg"].hub


def test_causes_and_effects_become_questions() -> None:
    for name in ("copa", "xcopa"):
        for layout in [*CATALOGUE[name].files, *CATALOGUE[name].hub]:
            assert layout.values == {"question": {"cause": "What was the cause?", "effect": "What was the effect?"}}


def test_labels_of_part_of_speech_are_the_seventeen_of_universal_dependencies() -> None:
    assert len(CATALOGUE["udpos"].labels) == len(set(CATALOGUE["udpos"].labels)) == 17


def test_questions_are_read_in_windows_of_384_tokens_that_share_128() -> None:
    for spec in published():
        if spec.kind == "span":
            assert (spec.max_length, spec.stride) == (384, 128)


def test_data_sets_that_are_scripts_are_read_from_their_conversion() -> None:
    scripts = {"facebook/mlqa", "allenai/social_i_qa", "masakhane/masakhaner"}
    hubs = [hub for spec in CATALOGUE.values() for hub in spec.hub if hub.dataset in scripts]
    assert len(hubs) == 3
    assert {hub.revision for hub in hubs} == {"refs/convert/parquet"}


# Numbers of items of the development data: its README's table.
COUNTS: dict[tuple[str, Split, str], int] = {
    ("anli", "dev", "en"): 3198,
    ("cosmosqa", "dev", "en"): 2000,
    ("commonsenseqa", "train", "en"): 9741,
    ("commonsenseqa", "dev", "en"): 1221,
    ("hellaswag", "dev", "en"): 2009,
    ("qamr", "dev", "en"): 1717,
    ("siqa", "dev", "en"): 1954,
    ("siqa", "test", "en"): 2224,
    ("snli", "train", "en"): 1666,
    ("snli", "dev", "en"): 200,
    ("snli", "test", "en"): 400,
    **{("americasnli", "dev", code): 743 for code in ("quy", "gn")},
    **{("americasnli", "test", code): 750 for code in ("quy", "gn")},
    **{("lareqa", "test", code): 632 for code in ("ar", "de", "en", "zh")},
    ("masakhaner", "train", "pcm"): 2124,
    ("masakhaner", "dev", "pcm"): 306,
    ("masakhaner", "test", "pcm"): 600,
    ("masakhaner", "dev", "sw"): 300,
    ("masakhaner", "test", "sw"): 604,
    ("masakhaner", "dev", "yo"): 305,
    ("masakhaner", "test", "yo"): 645,
    ("mlqa", "dev", "ar"): 517,
    ("mlqa", "dev", "de"): 512,
    ("mlqa", "dev", "en"): 512,
    ("mlqa", "dev", "zh"): 504,
    **{("pawsx", "dev", code): 2000 for code in ("en", "de", "zh")},
    **{("tatoeba", "test", code): 1000 for code in ("ar", "zh", "de", "et", "fr", "hi", "es", "tr")},
    ("tatoeba", "test", "sw"): 390,
    ("tydiqa", "train", "en"): 3000,
    ("udpos", "dev", "zh"): 117,
    ("udpos", "test", "zh"): 199,
    ("udpos", "dev", "en"): 2001,
    ("udpos", "test", "en"): 410,
    ("udpos", "dev", "de"): 300,
    ("udpos", "test", "de"): 404,
    ("udpos", "test", "hi"): 135,
    ("udpos", "dev", "ja"): 32,
    ("udpos", "test", "ja"): 73,
    ("udpos", "dev", "wo"): 215,
    ("udpos", "test", "wo"): 296,
    ("udpos", "test", "yo"): 317,
    **{("xcopa", "dev", code): 100 for code in ("et", "id", "sw", "tr", "zh")},
    **{("xcopa", "test", code): 500 for code in ("et", "id", "sw", "tr", "zh")},
    **{("xnli", "dev", code): 1500 for code in ("ar", "de", "es", "sw", "zh", "hi", "en")},
    **{("xquad", "test", code): 1190 for code in ("ar", "de", "en", "es", "hi", "zh")},
}
# XTREME's preparation has emptied the answers of these.
WITHOUT_ANSWERS: set[tuple[str, Split, str]] = {
    ("tydiqa", "dev", code) for code in ("ar", "bn", "en", "fi", "ko", "sw", "te")
}
has_data = pytest.mark.skipif(not Path(DATA, "targets", "xquad").is_dir(), reason="XLT_SCALE_DATA is not set")


def source() -> DataSource:
    return DataSource({"": Path(DATA)}, use_hub=False)


@has_data
@pytest.mark.parametrize(("task", "split", "language"), COUNTS)
def test_every_file_of_the_development_data_is_read_whole(task: str, split: Split, language: str) -> None:
    examples = load_examples(CATALOGUE[task], split, language, source())
    assert len(examples) + examples.num_dropped == COUNTS[task, split, language]


@has_data
def test_every_split_of_the_development_data_is_counted() -> None:
    found = {
        (spec.name, split, language)
        for spec in published()
        if spec.name != "mlm"
        for split in ("train", "dev", "test")
        for language in available_languages(spec, split, source())
    }
    assert {key for key in found if key[0] != "anli-plus"} == set(COUNTS) | WITHOUT_ANSWERS


@has_data
@pytest.mark.parametrize(("task", "split", "language"), sorted(WITHOUT_ANSWERS))
def test_copies_whose_answers_were_removed_can_be_asked_but_not_scored(task: str, split: Split, language: str) -> None:
    examples = load_examples(CATALOGUE[task], split, language, source())
    assert len(examples) > 100
    assert not examples.is_labelled


@has_data
def test_raw_text_is_found_in_a_hundred_and_twenty_six_languages() -> None:
    assert len(available_languages(CATALOGUE["mlm"], "train", source())) == 126


@has_data
@pytest.mark.parametrize("language", ["de", "zh"])
def test_untranslated_pairs_are_kept_as_the_benchmark_keeps_them(language: str) -> None:
    examples = load_examples(CATALOGUE["pawsx"], "dev", language, source())
    pairs = zip(examples.texts, examples.text_pairs, examples.labels, strict=True)
    untranslated = [label for one, other, label in pairs if "NS" in (one, other) or not (one and other)]
    assert Counter(untranslated) == {0: {"de": 68, "zh": 16}[language]}


@has_data
def test_choices_ask_for_the_cause_or_the_effect() -> None:
    examples = load_examples(CATALOGUE["xcopa"], "test", "sw", source())
    assert examples.contexts[0] == "Kifaa kilikuwa kimefungwa kwenye mfuko vibofu. What was the cause?"
    assert examples.contexts[1].endswith(" What was the effect?")
    assert len(examples.choices[0]) == 2


@has_data
def test_a_translation_that_is_not_there_is_no_english_in_its_place() -> None:
    with pytest.raises(UserError, match="'de'"):
        load_examples(CATALOGUE["snli"], "train", "de", source())
