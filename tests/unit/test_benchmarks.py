"""Task, group and benchmark means of XTREME and XTREME-R."""

import pytest

from xlt_scale.evaluation.benchmarks import (
    BENCHMARKS,
    XTREME,
    XTREME_R,
    Benchmark,
    BenchmarkTask,
    summarise_benchmark,
    summarise_task,
)
from xlt_scale.evaluation.scorers import SCORERS
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.languages import LANGUAGES


def _scores(benchmark: Benchmark, value: float = 50.0) -> dict[str, dict[str, dict[str, float]]]:
    """The same value everywhere; exact match 10 lower than F1."""

    def values(metric: str) -> dict[str, float]:
        headline = SCORERS[metric].headline
        return {headline: value} | ({"exact_match": value - 10} if metric in ("squad", "mlqa") else {})

    return {
        name: {language: values(task.metric) for language in task.languages} for name, task in benchmark.tasks.items()
    }


def test_tasks_have_the_published_numbers_of_languages() -> None:
    def numbers(benchmark: Benchmark) -> dict[str, int]:
        return {name: len(set(task.languages)) for name, task in benchmark.tasks.items()}

    shared = {"xnli": 15, "mlqa": 7, "tydiqa": 9}
    assert numbers(XTREME) == shared | {
        "pawsx": 7, "panx": 40, "udpos": 33, "bucc2018": 4, "tatoeba": 36, "xquad": 11
    }  # fmt: skip
    assert numbers(XTREME_R) == shared | {
        "xcopa": 11, "panx": 48, "udpos": 38, "xquad": 12, "tatoeba": 41, "mewslix": 11, "lareqa": 11
    }  # fmt: skip


def test_every_language_and_metric_is_known() -> None:
    for benchmark in BENCHMARKS.values():
        for task in benchmark.tasks.values():
            assert task.metric in SCORERS
            assert set(task.languages) <= set(LANGUAGES)


def test_a_task_is_the_plain_mean_over_its_languages_with_english() -> None:
    task = BenchmarkTask("t", "accuracy", ("en", "sw", "yo"))
    summary = summarise_task(task, {"en": {"accuracy": 90.0}, "sw": {"accuracy": 60.0}, "yo": {"accuracy": 30.0}})
    assert summary.value == pytest.approx(60.0)
    assert summary.value_without_source == pytest.approx(45.0)


def test_the_gap_is_english_minus_the_mean_of_the_others_seen_and_unseen() -> None:
    task = BenchmarkTask("t", "accuracy", ("en", "sw", "yo"))
    summary = summarise_task(task, {"en": {"accuracy": 90.0}, "sw": {"accuracy": 60.0}, "yo": {"accuracy": 30.0}})
    assert (summary.gap, summary.gap_seen, summary.gap_unseen) == (45.0, 30.0, 60.0)
    assert (summary.seen, summary.unseen) == (60.0, 30.0)


@pytest.mark.parametrize("name", ["xcopa", "tatoeba"])
def test_tasks_without_english_have_no_gap(name: str) -> None:
    summary = summarise_task(XTREME_R.tasks[name], _scores(XTREME_R)[name])
    assert summary.gap is summary.gap_seen is None
    assert summary.value == summary.value_without_source == pytest.approx(50.0)


def test_another_source_language_can_be_named() -> None:
    task = BenchmarkTask("t", "accuracy", ("de", "sw"))
    assert summarise_task(task, {"de": {"accuracy": 9.0}, "sw": {"accuracy": 5.0}}, source_language="de").gap == 4.0


def test_means_by_family_and_script_leave_english_out() -> None:
    task = BenchmarkTask("t", "accuracy", ("en", "de", "ru", "bg"))
    values = {"en": 90.0, "de": 80.0, "ru": 70.0, "bg": 60.0}
    summary = summarise_task(task, {language: {"accuracy": value} for language, value in values.items()})
    assert summary.families == {"IE Germanic": 80.0, "IE Slavic": 65.0}
    assert summary.scripts == {"Cyrillic": 65.0, "Latin": 80.0}


def test_question_answering_counts_the_mean_of_exact_match_and_f1() -> None:
    summary = summarise_task(XTREME.tasks["xquad"], _scores(XTREME)["xquad"])
    assert summary.value == pytest.approx(45.0)
    assert summary.metrics == {"f1": pytest.approx(50.0), "exact_match": pytest.approx(40.0)}


def test_the_total_is_the_mean_of_tasks_not_of_groups() -> None:
    whole = summarise_benchmark(XTREME, _scores(XTREME))
    assert whole.groups == {
        "classification": pytest.approx(50.0),
        "structured prediction": pytest.approx(50.0),
        "retrieval": pytest.approx(50.0),
        "question answering": pytest.approx(45.0),
    }
    assert whole.total == pytest.approx((6 * 50 + 3 * 45) / 9)
    assert whole.missing == ()


def test_xtreme_r_has_a_total_of_ten_tasks() -> None:
    whole = summarise_benchmark(XTREME_R, _scores(XTREME_R))
    assert len(whole.tasks) == 10
    assert whole.total == pytest.approx((7 * 50 + 3 * 45) / 10)
    assert XTREME_R.groups["retrieval"] == ["tatoeba", "mewslix", "lareqa"]


def test_a_missing_language_leaves_its_task_marked_and_no_total() -> None:
    scores = _scores(XTREME)
    del scores["xnli"]["sw"], scores["xnli"]["ur"]
    whole = summarise_benchmark(XTREME, scores)
    assert whole.total is whole.total_without_source is whole.gap is None
    assert whole.groups["classification"] is None
    assert whole.groups["retrieval"] == pytest.approx(50.0)
    assert whole.tasks["xnli"].value == pytest.approx(50.0)
    assert not whole.tasks["xnli"].is_complete
    assert whole.missing == ("xnli: no scores in sw, ur",)


def test_a_missing_task_has_no_value() -> None:
    scores = _scores(XTREME)
    del scores["pawsx"]
    whole = summarise_benchmark(XTREME, scores)
    assert whole.tasks["pawsx"].value is None
    assert whole.missing == ("pawsx: no scores",)


def test_a_language_that_the_task_has_not_counts_nowhere() -> None:
    scores = _scores(XTREME)
    scores["xquad"]["ro"] = {"f1": 0.0, "exact_match": 0.0}
    whole = summarise_benchmark(XTREME, scores)
    assert whole.tasks["xquad"].extra == ("ro",)
    assert whole.tasks["xquad"].value == pytest.approx(45.0)


def test_counts_of_items_have_no_mean() -> None:
    task = BenchmarkTask("t", "map_at_20", ("en",))
    assert summarise_task(task, {"en": {"map_at_20": 1.0, "missing": 3.0}}).metrics == {"map_at_20": 1.0}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_catalogue_declares_every_task_of_a_benchmark_with_its_languages_and_metric(name: str) -> None:
    catalogue = load_catalogue()
    for task in BENCHMARKS[name].tasks.values():
        spec = catalogue[task.name]
        assert set(task.languages) <= set(spec.languages), task.name
        assert task.metric == spec.metric, task.name
        assert task.kind in ("", spec.kind), task.name
