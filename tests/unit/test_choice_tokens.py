"""Multiple choice as groups of sequences."""

from itertools import pairwise
from typing import Any

import pytest
from small_tokenizers import FAMILIES, QUESTIONS, metaspace

from xlt_scale.data.tokenizing import tokenize
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import ChoiceExamples

CONTEXTS = [passage for _, passage, _ in QUESTIONS]
# Two, three or four choices each.
CHOICES = [[QUESTIONS[(i + j) % 16][0] for j in range(2 + i % 3)] for i in range(16)]
EXAMPLES = ChoiceExamples(CONTEXTS, CHOICES, [i % 2 for i in range(16)])


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of each kind."""
    return FAMILIES[request.param]()


def rows(data: TokenizedData) -> list[list[int]]:
    return [data.input_ids[start:end].tolist() for start, end in pairwise(data.offsets)]


def plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_each_choice_is_a_pair_with_its_context(family: Any) -> None:
    data = tokenize(EXAMPLES, family, 512, token_types=True)
    pairs = [(context, choice) for context, choices in zip(CONTEXTS, CHOICES, strict=True) for choice in choices]
    encoded = family([a for a, _ in pairs], [b for _, b in pairs], return_token_type_ids=True)
    assert rows(data) == encoded["input_ids"]
    assert data.token_type_ids.tolist() == [kind for kinds in encoded["token_type_ids"] for kind in kinds]


def test_examples_are_groups_of_as_many_sequences_as_they_have_choices(family: Any) -> None:
    data = tokenize(EXAMPLES, family, 512)
    assert [end - start for start, end in pairwise(data.groups)] == [len(choices) for choices in CHOICES]
    assert (len(data), data.num_examples, data.num_sequences) == (16, 16, sum(map(len, CHOICES)))
    assert data.labels.tolist() == EXAMPLES.labels


def test_an_example_is_as_long_as_all_its_sequences_and_costs_its_longest_one_each() -> None:
    data = tokenize(EXAMPLES, metaspace(), 512)
    lengths = [len(row) for row in rows(data)]
    groups = [lengths[start:end] for start, end in pairwise(data.groups)]
    assert data.lengths.tolist() == [sum(group) for group in groups]
    assert data.padded_lengths.tolist() == [len(group) * max(group) for group in groups]


def test_the_front_of_the_context_is_cut_and_the_choice_stays_whole(family: Any) -> None:
    context, choice = plain(family, CONTEXTS[0]), plain(family, "over the moon")
    special = family.num_special_tokens_to_add(pair=True)
    (row,) = rows(tokenize(ChoiceExamples(CONTEXTS[:1], [["over the moon"]]), family, special + len(choice) + 3))
    without_specials = [token for token in row if token not in (family.cls_token_id, family.sep_token_id)]
    assert without_specials == context[-3:] + choice


def test_a_choice_that_is_too_long_alone_loses_its_end() -> None:
    tokenizer = metaspace()
    (row,) = rows(tokenize(ChoiceExamples(["moon"], [[CONTEXTS[0]]]), tokenizer, 4 + 7))
    start, close = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert row == [start, close, close, *plain(tokenizer, CONTEXTS[0])[:7], close]


def test_without_gold_there_are_no_labels() -> None:
    assert tokenize(ChoiceExamples(CONTEXTS, CHOICES), metaspace(), 64).labels is None


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.max_length = 4 leaves no room beside 4 special tokens"):
        tokenize(EXAMPLES, metaspace(), 4)
