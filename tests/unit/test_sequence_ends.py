"""Tokenizers without a token behind texts, between them, or for masked ones, as decoders have them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from xlt_scale.data.assembly import Masking, assemble
from xlt_scale.data.tokenizing import tokenize
from xlt_scale.errors import UserError
from xlt_scale.modeling.sequence_ends import close_sequences, mask_token
from xlt_scale.modeling.tokenizer import load_tokenizer
from xlt_scale.tasks.examples import QuestionExamples, TextExamples
from xlt_scale.tasks.spec import TaskSpec

LINES = ["the bank has money", "a goal for the team", "le prix du marché", "der Ball, das Tor"]
TEXT = TaskSpec(name="text", kind="masked_language_modeling")


def tokens_of_bytes(folder: Path, opening: str = "", end: str | None = "<|endoftext|>") -> Path:
    """A byte-level tokenizer that puts nothing around texts (Qwen3), or one token before each (Gemma)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    options: dict[str, Any] = {"vocab_size": 300, "special_tokens": ["<|endoftext|>", "<bos>"], "show_progress": False}
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    tokenizer.train_from_iterator(LINES, trainer)
    covers: Any = processors.ByteLevel(trim_offsets=False)
    if opening:
        number = tokenizer.token_to_id(opening)
        template = processors.TemplateProcessing(
            single=f"{opening} $A", pair=f"{opening} $A {opening}:1 $B:1", special_tokens=[(opening, number)]
        )
        covers = processors.Sequence([covers, template])
    tokenizer.post_processor = covers
    names = {"eos_token": end, "pad_token": "<|endoftext|>"} | ({"bos_token": opening} if opening else {})
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def test_each_text_of_a_pair_is_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tokenizer = load_tokenizer(str(tokens_of_bytes(tmp_path)))
    text, other = (tokenizer(line, add_special_tokens=False)["input_ids"] for line in LINES[:2])
    end = [tokenizer.eos_token_id]
    assert tokenizer(LINES[0])["input_ids"] == text + end
    assert tokenizer(LINES[0], LINES[1])["input_ids"] == text + end + other + end
    assert tokenizer.num_special_tokens_to_add(pair=True) == 2
    assert "the tokenizer ends no text by itself: <|endoftext|> is put behind each" in caplog.text


def test_what_stands_before_the_first_text_stays(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tokens_of_bytes(tmp_path, "<bos>")))
    assert tokenizer.decode(tokenizer("a", "a")["input_ids"]) == "<bos>a<|endoftext|>a<|endoftext|>"


def test_texts_that_run_into_each_other_are_separated_also_where_the_sequence_is_ended(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokens_of_bytes(tmp_path))
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B:1 {end}:1", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    close_sequences(tokenizer)
    assert tokenizer.decode(tokenizer("a", "b")["input_ids"]) == f"a{end}b{end}"


def test_saved_and_loaded_again_it_ends_texts_once(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tokens_of_bytes(tmp_path / "published")))
    tokenizer.save_pretrained(tmp_path / "run")
    again = load_tokenizer(str(tmp_path / "run"))
    plain = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert again("a", "b")["input_ids"] == plain("a", "b")["input_ids"] == tokenizer("a", "b")["input_ids"]


def test_tokenizers_that_end_texts_are_left_as_they_are(tokenizer: Any) -> None:
    before = tokenizer.backend_tokenizer.to_str()
    close_sequences(tokenizer)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_characters_of_tokens_are_what_they_were(tmp_path: Path) -> None:
    folder = str(tokens_of_bytes(tmp_path))
    plain, closed = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    expected = plain(LINES[3], return_offsets_mapping=True)["offset_mapping"]
    assert closed(LINES[3], return_offsets_mapping=True)["offset_mapping"][:-1] == expected


def test_answers_of_questions_are_found_between_the_ends(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tokens_of_bytes(tmp_path)))
    passage = "the bank has money for the team"
    examples = QuestionExamples(["1"], ["what has it?"], [passage], [[("money", passage.index("money"))]])
    data = tokenize(examples, tokenizer, 64)
    assert data.labels is not None
    first, last = data.labels[0]
    assert tokenizer.decode(data.input_ids[first : last + 1]).strip() == "money"


def test_a_tokenizer_that_has_no_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.tokenizer = .* has no eos_token; add one"):
        load_tokenizer(str(tokens_of_bytes(tmp_path, end=None)))


def test_the_masks_own_token_comes_first_then_known_ones_then_none(tokenizer: Any, tmp_path: Path) -> None:
    decoder = load_tokenizer(str(tokens_of_bytes(tmp_path)))
    assert mask_token(tokenizer) == "<mask>"
    assert mask_token(decoder) == "_"
    assert mask_token(decoder, "<bos>") == "<bos>"
    with pytest.raises(UserError, match=r"model\.mask_token = '<blank>' is no entry of the tokenizer"):
        mask_token(decoder, "<blank>")


def test_texts_with_the_mask_in_them_are_tokenised_as_before(tmp_path: Path) -> None:
    folder = str(tokens_of_bytes(tmp_path))
    plain, decoder = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    mask_token(decoder)
    assert decoder("a_b and _")["input_ids"][:-1] == plain("a_b and _")["input_ids"]


def test_a_masked_token_is_predicted_at_the_place_before_it(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tokens_of_bytes(tmp_path)))
    data = tokenize(TextExamples(LINES * 20), tokenizer, 64)
    masks = [Masking.for_tokenizer(tokenizer, 0.4, 5, "_", places_before) for places_before in (0, 1)]
    at_it, before_it = (assemble(TEXT, data, np.arange(len(data)), masking) for masking in masks)
    starts = before_it.boundaries[:-1]
    assert set(before_it.label_positions.tolist()) <= set((at_it.label_positions - 1).tolist())
    assert len(at_it.label_positions) - len(before_it.label_positions) == sum(
        int(place) in set(starts.tolist()) for place in at_it.label_positions
    )
    # What is predicted is the token of the text behind the place; what begins a text is never masked.
    assert before_it.labels.tolist() == data.input_ids[before_it.label_positions + 1].tolist()
    assert before_it.input_ids[starts].tolist() == data.input_ids[starts].tolist()
    hidden = before_it.input_ids[before_it.label_positions + 1] == tokenizer.convert_tokens_to_ids("_")
    assert 0.7 < hidden.float().mean() < 0.9
