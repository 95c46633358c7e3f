"""Tokenised data: pairs, joined lines, and the cache on disk."""

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from small_examples import FORMATS, LABELLED, TEXT, same

from xlt_scale.data.text_tokens import special_frame
from xlt_scale.data.tokenizing import tokenize
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.errors import UserError
from xlt_scale.modeling.tokenizer import load_tokenizer
from xlt_scale.tasks.examples import BitextExamples
from xlt_scale.tasks.examples import TextExamples as Examples

BOS, EOS = 0, 2


def sequences(data: TokenizedData) -> list[list[int]]:
    return [data.input_ids[start:end].tolist() for start, end in pairwise(data.offsets)]


def plain(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text alone, without special ones."""
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def cached_file(cache: Path) -> Path:
    (path,) = (cache / "tokens").glob("*.safetensors")
    return path


# Single texts and pairs


def test_a_text_is_framed_by_the_special_tokens(tokenizer: Any) -> None:
    data = tokenize(Examples(TEXT[:2]), tokenizer, 128)
    assert sequences(data) == [[BOS, *tokens, EOS] for tokens in plain(tokenizer, TEXT[:2])]
    assert data.labels is None


def test_a_pair_is_one_sequence_with_two_closing_tokens_between(tokenizer: Any) -> None:
    data = tokenize(Examples(TEXT[:1], TEXT[1:2], [2]), tokenizer, 128)
    first, second = plain(tokenizer, TEXT[:2])
    assert sequences(data) == [[BOS, *first, EOS, EOS, *second, EOS]]
    assert data.labels is not None and data.labels.tolist() == [2]


def test_lengths_are_those_of_the_sequences(tokenizer: Any) -> None:
    data = tokenize(LABELLED, tokenizer, 32)
    assert data.lengths.tolist() == [len(sequence) for sequence in sequences(data)]
    assert len(data) == len(TEXT)
    assert data.lengths.max() <= 32


def test_a_pair_is_cut_longest_first(tokenizer: Any) -> None:
    long, short = plain(tokenizer, [" ".join(TEXT[:3]), "the cat"])
    data = tokenize(Examples([" ".join(TEXT[:3])], ["the cat"]), tokenizer, len(short) + 4 + 5)
    assert sequences(data) == [[BOS, *long[:5], EOS, EOS, *short, EOS]]


def test_a_pair_of_equal_texts_is_cut_on_both_sides(tokenizer: Any) -> None:
    (tokens,) = plain(tokenizer, TEXT[:1])
    data = tokenize(Examples(TEXT[:1], TEXT[:1]), tokenizer, 4 + 8)
    assert sequences(data) == [[BOS, *tokens[:4], EOS, EOS, *tokens[:4], EOS]]


def test_token_types_tell_the_second_text_where_the_model_has_them(tokenizer: Any) -> None:
    data = tokenize(Examples(TEXT[:1], TEXT[1:2]), tokenizer, 128, token_types=True)
    assert data.token_type_ids is not None
    assert data.token_type_ids.shape == data.input_ids.shape
    assert tokenize(Examples(TEXT[:1], TEXT[1:2]), tokenizer, 128).token_type_ids is None


def test_more_texts_than_one_call_of_the_tokenizer_takes_stay_in_order(tokenizer: Any) -> None:
    texts = [TEXT[i % 6].split()[i % 5] for i in range(4321)]
    data = tokenize(Examples(texts, labels=list(range(4321))), tokenizer, 16)
    assert sequences(data) == [[BOS, *tokens, EOS] for tokens in plain(tokenizer, texts)]


@pytest.mark.parametrize(
    ("pairs", "num_special", "join_lines"), [(None, 2, False), (TEXT[:1], 4, False), (None, 2, True)]
)
def test_a_length_without_room_for_text_is_refused(
    tokenizer: Any, pairs: list[str] | None, num_special: int, join_lines: bool
) -> None:
    with pytest.raises(UserError) as error:
        tokenize(Examples(TEXT[:1], pairs), tokenizer, num_special, join_lines=join_lines)
    assert str(error.value) == (
        f"model.max_length = {num_special} leaves no room beside {num_special} special tokens; raise it"
    )
    assert len(tokenize(Examples(TEXT[:1], pairs), tokenizer, num_special + 1)) == 1


def test_the_special_frame_is_what_the_tokenizer_puts_around_a_text(tokenizer: Any) -> None:
    assert special_frame(tokenizer) == ([BOS], [EOS])


def test_real_numbers_are_labels_too(tokenizer: Any) -> None:
    data = tokenize(FORMATS["numbers"], tokenizer, 32)
    assert data.labels is not None and data.labels.dtype == np.float32
    assert data.labels.tolist() == pytest.approx([0.0, 2.5, 5.0, 1.0, 3.2, 4.0])


def test_bitexts_are_not_tokenised_as_a_whole(tokenizer: Any) -> None:
    with pytest.raises(TypeError, match="BitextExamples"):
        tokenize(BitextExamples(), tokenizer, 32)


def test_no_texts_are_no_sequences(tokenizer: Any) -> None:
    assert len(tokenize(Examples(), tokenizer, 32)) == 0


# Joined lines


def test_lines_fill_a_sequence_and_each_is_closed(tokenizer: Any) -> None:
    a, b, c = plain(tokenizer, TEXT[:3])
    room_for_two = 1 + len(a) + 1 + len(b) + 1
    data = tokenize(Examples(TEXT[:3]), tokenizer, room_for_two, join_lines=True)
    first, *rest = sequences(data)
    assert first == [BOS, *a, EOS, *b, EOS]
    assert [token for sequence in rest for token in sequence if token not in (BOS, EOS)] == c


def test_a_long_line_is_spread_over_sequences(tokenizer: Any) -> None:
    (tokens,) = plain(tokenizer, TEXT[:1])
    data = tokenize(Examples(TEXT[:1]), tokenizer, 2 + 10, join_lines=True)
    pieces = [tokens[i : i + 10] for i in range(0, len(tokens), 10)]
    assert len(pieces) > 1
    assert sequences(data) == [[BOS, *piece, EOS] for piece in pieces]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.lists(st.sampled_from(" ".join(TEXT).split()), max_size=30).map(" ".join), min_size=1, max_size=9
    ),
    max_length=st.integers(3, 40),
)
def test_joining_loses_and_doubles_no_token(tokenizer: Any, texts: list[str], max_length: int) -> None:
    assume(any(texts))
    data = tokenize(Examples(texts), tokenizer, max_length, join_lines=True)
    found = sequences(data)
    assert [i for sequence in found for i in sequence if i not in (BOS, EOS)] == [
        i for tokens in plain(tokenizer, texts) for i in tokens
    ]
    assert all(len(sequence) <= max_length for sequence in found)
    assert all(sequence[0] == BOS and sequence[-1] == EOS and len(sequence) > 2 for sequence in found)


def test_text_without_a_single_token_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="the tokenizer finds no tokens in 2 texts"):
        tokenize(Examples(["", ""]), tokenizer, 16, join_lines=True)


def test_joined_sequences_are_nearly_full(tokenizer: Any) -> None:
    data = tokenize(Examples(TEXT * 40), tokenizer, 128, join_lines=True)
    longest_line = max(len(tokens) for tokens in plain(tokenizer, TEXT)) + 1
    assert (data.lengths[:-1] > 128 - longest_line).all()


# The cache


@pytest.mark.parametrize("token_types", [False, True])
@pytest.mark.parametrize("join_lines", [False, True])
def test_what_the_cache_gives_is_what_was_made(
    tokenizer: Any, tmp_path: Path, token_types: bool, join_lines: bool
) -> None:
    examples = Examples(TEXT) if join_lines else LABELLED
    made, kept, without = (
        tokenize(examples, tokenizer, 24, join_lines=join_lines, token_types=token_types, cache=cache)
        for cache in (tmp_path, tmp_path, None)
    )
    assert same(made, without)
    assert same(kept, without)


@pytest.mark.parametrize("name", FORMATS)
def test_the_cache_keeps_every_array_of_every_format(tokenizer: Any, tmp_path: Path, name: str) -> None:
    made, kept = (tokenize(FORMATS[name], tokenizer, 40, stride=5, cache=tmp_path) for _ in range(2))
    assert same(made, kept)
    assert same(made, tokenize(FORMATS[name], tokenizer, 40, stride=5))


@pytest.mark.parametrize("name", FORMATS)
def test_every_column_of_every_format_counts(tokenizer: Any, tmp_path: Path, name: str) -> None:
    examples = FORMATS[name]
    for column in examples.columns:
        value = list(reversed(examples.columns[column]))
        if value == examples.columns[column]:
            value = value[:1] * len(value)
        if value != examples.columns[column]:
            tokenize(replace(examples, **{column: value}), tokenizer, 40, stride=5, cache=tmp_path)
    tokenize(examples, tokenizer, 40, stride=5, cache=tmp_path)
    num_changes = sum(len({repr(item) for item in column}) > 1 for column in examples.columns.values())
    assert len(list((tmp_path / "tokens").glob("*.safetensors"))) == 1 + num_changes


def test_formats_with_the_same_columns_are_not_the_same(tokenizer: Any, tmp_path: Path) -> None:
    for examples in (FORMATS["questions"], FORMATS["rankings"]):
        tokenize(examples, tokenizer, 40, stride=5, cache=tmp_path)
        tokenize(examples, tokenizer, 40, stride=4, query_max_length=9, cache=tmp_path)
    assert len(list((tmp_path / "tokens").glob("*.safetensors"))) == 4


def test_a_second_call_reads_the_file_and_does_not_write(tokenizer: Any, tmp_path: Path) -> None:
    tokenize(LABELLED, tokenizer, 24, cache=tmp_path)
    written = cached_file(tmp_path).stat()
    tokenize(LABELLED, tokenizer, 24, cache=tmp_path)
    assert cached_file(tmp_path).stat().st_mtime_ns == written.st_mtime_ns
    assert cached_file(tmp_path).stat().st_ino == written.st_ino


def test_a_cache_that_cannot_be_written_is_still_read(tokenizer: Any, tmp_path: Path) -> None:
    made = tokenize(LABELLED, tokenizer, 24, cache=tmp_path)
    for lock in (tmp_path / "tokens").glob("*.lock"):
        lock.unlink()
        lock.mkdir()  # opening it to lock it would fail
    assert same(tokenize(LABELLED, tokenizer, 24, cache=tmp_path), made)


def test_what_the_tokenizer_did_before_does_not_matter_to_the_cache(tokenizer: Any, tmp_path: Path) -> None:
    fresh = load_tokenizer(tokenizer.name_or_path)
    tokenize(LABELLED, fresh, 24, cache=tmp_path)
    fresh(TEXT, truncation=True, max_length=9, padding="max_length")
    tokenize(LABELLED, fresh, 24, cache=tmp_path)
    tokenize(LABELLED, load_tokenizer(tokenizer.name_or_path), 24, cache=tmp_path)
    assert cached_file(tmp_path).exists()  # there is only one


@pytest.mark.parametrize(
    "change",
    [
        {"examples": Examples([*TEXT[:5], "other"], LABELLED.text_pairs, LABELLED.labels)},
        {"examples": Examples(TEXT, TEXT, LABELLED.labels)},
        {"examples": Examples(TEXT, None, LABELLED.labels)},
        {"examples": Examples(TEXT, LABELLED.text_pairs, [0] * 6)},
        {"max_length": 23},
        {"token_types": True},
    ],
    ids=["text", "pair", "no pair", "label", "length", "token types"],
)
def test_whatever_changes_the_result_changes_the_file(tokenizer: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"examples": LABELLED, "tokenizer": tokenizer, "max_length": 24, "cache": tmp_path}
    tokenize(**arguments)
    assert same(tokenize(**arguments | change), tokenize(**arguments | change | {"cache": None}))
    assert len(list((tmp_path / "tokens").glob("*.safetensors"))) == 2


def test_texts_that_only_join_alike_are_not_the_same(tokenizer: Any, tmp_path: Path) -> None:
    for examples in (Examples(["a b", "c"]), Examples(["a", "b c"]), Examples(["a b"], ["c"])):
        tokenize(examples, tokenizer, 24, cache=tmp_path)
    assert len(list((tmp_path / "tokens").glob("*.safetensors"))) == 3


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_in_half, cut_in_the_header, empty, flip_a_bit])
def test_a_damaged_file_is_noticed_and_made_again(
    tokenizer: Any, tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    made = tokenize(LABELLED, tokenizer, 24, cache=tmp_path)
    path = cached_file(tmp_path)
    whole = path.read_bytes()
    damage(path)
    with caplog.at_level(logging.WARNING):
        again = tokenize(LABELLED, tokenizer, 24, cache=tmp_path)
    assert same(again, made)
    assert f"{path} is not whole" in caplog.text
    assert path.read_bytes() == whole


def test_a_cache_that_is_no_folder_is_one_line_with_the_mend(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        tokenize(LABELLED, tokenizer, 24, cache=tmp_path / "file")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path / 'file' / 'tokens'}: ")
    assert message.endswith("; set data.cache to a folder that can be written")


ONE_OF_TWO = """
import sys, time
from pathlib import Path
from xlt_scale.data import tokenizing
from xlt_scale.modeling.tokenizer import load_tokenizer
from xlt_scale.tasks.examples import TextExamples as Examples

name, cache, me, other = sys.argv[1:]
tokenizer = load_tokenizer(name)
build = tokenizing.tokenize_texts
def tell(*arguments):
    print("built", end=" ")
    time.sleep(0.5)
    return build(*arguments)
tokenizing.tokenize_texts = tell
Path(me).touch()
while not Path(other).exists():
    time.sleep(0.001)
examples = Examples([f"the cat number {i}" for i in range(3000)])
print(tokenizing.tokenize(examples, tokenizer, 24, cache=Path(cache)).fingerprint)
"""


def test_of_two_processes_at_once_one_builds_and_both_have_the_same(tokenizer: Any, tmp_path: Path) -> None:
    cache, a, b = (str(tmp_path / name) for name in ("cache", "a", "b"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, tokenizer.name_or_path, cache, *order],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for order in ((a, b), (b, a))
    ]
    outputs = []
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        outputs.append(output.split())
    assert sorted(len(output) for output in outputs) == [1, 2]  # only one says that it built
    assert outputs[0][-1] == outputs[1][-1]
    assert [path.suffix for path in sorted((tmp_path / "cache" / "tokens").iterdir())] == [".safetensors", ".lock"]
