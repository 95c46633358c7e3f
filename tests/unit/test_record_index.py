"""The index: a cache of the records that may be lost, spoilt, or written by two at a time."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_records import SmallStudy

from xlt_scale.scaling.records import record_index
from xlt_scale.scaling.records.collect import collect
from xlt_scale.scaling.records.item_source import IndexedItems
from xlt_scale.scaling.records.record_index import RecordIndex, finished


@pytest.fixture
def study(tmp_path: Path) -> SmallStudy:
    """With a few records."""
    study = SmallStudy.make(tmp_path / "study")
    study.finish(study.phases(size="micro-tiny", arm="none"))
    collect(study.folder, study.grid)
    return study


def names_in(index: RecordIndex) -> list[str]:
    return sorted(index.table("phases", ["record"])["record"].to_pylist())


def segments(study: SmallStudy) -> list[Path]:
    return sorted(path for path in study.folder.index.iterdir() if path.name[0] != ".")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many records are read each time."""
    counts: list[int] = []
    read = record_index.read_records

    def counted(paths: list[Path]) -> object:
        counts.append(len(paths))
        return read(paths)

    monkeypatch.setattr(record_index, "read_records", counted)
    return iter([counts])


def test_every_record_is_in_it_once(study: SmallStudy) -> None:
    assert names_in(RecordIndex(study.folder)) == sorted(study.folder.recorded())


def test_records_that_are_in_it_are_not_read_again(study: SmallStudy, reads: Iterator[list[int]]) -> None:
    counts = next(reads)
    RecordIndex(study.folder)
    assert RecordIndex(study.folder).num_records == len(study.folder.recorded())
    assert len(counts) <= 1


def test_only_new_records_are_read(study: SmallStudy, reads: Iterator[list[int]]) -> None:
    RecordIndex(study.folder)
    counts = next(reads)
    counts.clear()
    study.finish(study.phases(size="micro-tiny", target="pairs"))
    new = len(collect(study.folder, study.grid))
    counts.clear()
    RecordIndex(study.folder)
    # The last collector has already looked at the index before it wrote.
    assert counts == [new]


def test_a_record_that_has_changed_is_read_again(study: SmallStudy) -> None:
    RecordIndex(study.folder)
    path = study.folder.record_file(study.phase(arm="none", target="pairs").name)
    path.write_text(path.read_text().replace('"precision":"fp32"', '"precision":"bf16"'))
    found = RecordIndex(study.folder).table("phases", ["record", "precision"]).to_pylist()
    assert {row["record"] for row in found if row["precision"] == "bf16"} == {path.stem}


def test_a_record_that_has_gone_is_gone(study: SmallStudy) -> None:
    RecordIndex(study.folder)
    path = study.folder.record_file(study.phase(arm="none", target="pairs").name)
    path.unlink()
    assert path.stem not in names_in(RecordIndex(study.folder))


def test_it_is_made_again_when_it_was_removed(study: SmallStudy) -> None:
    before = names_in(RecordIndex(study.folder))
    shutil.rmtree(study.folder.index)
    assert names_in(RecordIndex(study.folder)) == before


@pytest.mark.parametrize("table", ["phases", "scores", "outcomes"])
@pytest.mark.parametrize("damage", ["cut", "gone", "nonsense"])
def test_a_spoilt_segment_is_made_again(study: SmallStudy, table: str, damage: str) -> None:
    before = names_in(RecordIndex(study.folder))
    for segment in segments(study):
        path = segment / f"{table}.parquet"
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "cut" else b"nonsense")
    index = RecordIndex(study.folder)
    record = study.phase(arm="none", target="pairs").name
    assert IndexedItems(index).values([record], "pawsx", "de").shape == (1, 37)
    assert index.table("scores", ["record"]).num_rows > 0
    assert names_in(index) == before


def test_a_segment_of_another_version_is_made_again(study: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    RecordIndex(study.folder)
    before = segments(study)
    monkeypatch.setattr(record_index, "INDEX_VERSION", record_index.INDEX_VERSION + 1)
    assert RecordIndex(study.folder).num_records == len(study.folder.recorded())
    assert not set(before) & set(segments(study))


@pytest.mark.parametrize("family", ["xlm-roberta", None])
def test_records_of_earlier_programs_have_the_family_of_their_model_type(study: SmallStudy, family: str | None) -> None:
    for path in study.folder.records.glob("*.json"):
        record = json.loads(path.read_text())
        del record["size"]["family"], record["size"]["is_bidirectional_decoder"]
        record["size"] |= {"family": family} if family else {}
        path.write_text(json.dumps(record))
    index = RecordIndex(study.folder)
    assert index.problems == []
    table = index.table("phases", ["family", "is_bidirectional_decoder"])
    assert table.num_rows == len(study.folder.recorded())
    assert {tuple(row.values()) for row in table.to_pylist()} == {("XLM-R", False)}


def test_two_that_index_the_same_records_do_no_harm(study: SmallStudy) -> None:
    shutil.rmtree(study.folder.index, ignore_errors=True)
    RecordIndex(study.folder)
    kept = study.folder.root / "kept"
    study.folder.index.rename(kept)
    RecordIndex(study.folder)
    for segment in kept.iterdir():
        segment.rename(study.folder.index / segment.name)
    assert names_in(RecordIndex(study.folder)) == sorted(study.folder.recorded())


def test_an_index_that_another_process_merged_meanwhile_still_answers(study: SmallStudy) -> None:
    index = RecordIndex(study.folder)
    shutil.rmtree(study.folder.index)
    RecordIndex(study.folder)
    assert names_in(index) == sorted(study.folder.recorded())


def test_many_segments_become_few_and_keep_everything(study: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_index, "_MOST_SEGMENTS", 3)
    phases = study.phases(size="micro-tiny", target="words")
    study.finish(phases)
    for phase in phases:
        collect(study.folder, study.grid, [phase.name])
        index = RecordIndex(study.folder)
    assert len(segments(study)) <= 4
    assert names_in(index) == sorted(study.folder.recorded())
    names = [phase.name for phase in phases]
    assert IndexedItems(index).values(names, "udpos", "sw").shape == (len(names), 37)


def test_an_unreadable_record_is_said_once_and_the_others_are_there(study: SmallStudy) -> None:
    path = study.folder.record_file(study.phase(arm="none", target="pairs").name)
    path.write_text('{"schema": 1, "pha')
    said: list[str] = []
    index = RecordIndex(study.folder, said.append)
    index.refresh()
    assert len(said) == 1
    assert path.name in said[0]
    assert names_in(index) == sorted(study.folder.recorded() - {path.stem})


def test_a_record_whose_outcomes_are_damaged_keeps_its_scores(study: SmallStudy) -> None:
    name = study.phase(arm="none", target="pairs").name
    study.folder.outcome_file(name).write_bytes(b"nonsense")
    said: list[str] = []
    index = RecordIndex(study.folder, said.append)
    assert "is damaged" in said[0]
    assert name in index.table("scores", ["record"])["record"].to_pylist()
    with pytest.raises(KeyError):
        IndexedItems(index).values([name], "pawsx", "de")


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    study: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(study.folder.index, ignore_errors=True)
    study.folder.index.write_text("a file where the folder should be")
    said: list[str] = []
    assert RecordIndex(study.folder, said.append).num_records == len(study.folder.recorded())
    assert "cannot be written" in said[0]


def test_half_written_segments_are_not_read_and_go_in_time(study: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    RecordIndex(study.folder)
    (study.folder.index / ".unfinished").mkdir()
    RecordIndex(study.folder)
    assert (study.folder.index / ".unfinished").is_dir()
    monkeypatch.setattr(record_index, "_ABANDONED", -1.0)
    RecordIndex(study.folder)
    assert not (study.folder.index / ".unfinished").exists()


def test_a_study_without_records_has_empty_tables(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path)
    index = RecordIndex(study.folder)
    assert (index.num_records, index.table("curves").num_rows) == (0, 0)


def test_phases_that_the_study_asks_more_of_are_not_finished(study: SmallStudy) -> None:
    targets = [{"name": "spans", "phase": {"task": "squad"}, "evaluate": ["xquad", "mlqa"]}]
    larger = SmallStudy.make(study.folder.root, targets=targets)
    asked = {phase.name for phase in larger.phases(target="spans")}
    done = finished(larger.folder, larger.grid)
    assert asked & larger.folder.recorded()
    assert not asked & done


def test_what_was_read_last_stays_in_memory_up_to_a_limit(study: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    index = RecordIndex(study.folder)
    asked: list[tuple[str, str]] = []
    read = index.outcomes

    def counted(place: tuple[str, str]) -> object:
        asked.append(place)
        return read(place)

    monkeypatch.setattr(index, "outcomes", counted)
    record = study.phase(arm="none", target="pairs").name
    large, small = IndexedItems(index), IndexedItems(index, cache_bytes=0)
    for items, expected in ((large, 2), (small, 4)):
        asked.clear()
        for language in ("de", "en", "de", "en"):
            items.values([record], "pawsx", language)
        assert len(asked) == expected
