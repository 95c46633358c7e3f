"""The tokenizer of a run: from the hub, a folder, the micro benchmark, or trained on the run's own text."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from xlt_scale.data.build_once import build_folder_once
from xlt_scale.errors import UserError
from xlt_scale.hub import hub_cache, not_to_be_had
from xlt_scale.modeling.sequence_ends import close_sequences

_SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_TRAINER_VERSION = 1


def load_tokenizer(name: str, revision: str = "") -> Any:
    """A fast tokenizer by hub name or folder, with a special token behind each text (`close_sequences`).

    Raises:
        UserError: it cannot be found or read, or has no token to end a text with.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or None)
    except Exception as error:  # the library raises many kinds for "not there" and "no network"
        otherwise = "give a folder with tokenizer.json"
        raise not_to_be_had(f"model.tokenizer = {name!r}", error, hub_cache(), otherwise) from None
    # Of a model's folder without a tokenizer the library makes one that knows no word.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(
            f"model.tokenizer = {name!r} has special tokens alone: its files are missing; put tokenizer.json there, or "
            "set model.tokenizer to a folder that has it"
        )
    close_sequences(tokenizer)
    return tokenizer


def trained_tokenizer(texts: Iterable[str], vocab_size: int, cache: Path) -> Path:
    """The folder of a Unigram tokenizer with XLM-R's special tokens, trained on `texts` (Kudo 2018).

    Kept by content below `cache`; safe for many processes at once: the first trains, the others wait.
    """
    lines = list(texts)
    digest = hashlib.blake2b(repr((_TRAINER_VERSION, vocab_size)).encode(), digest_size=16)
    for line in lines:
        digest.update(line.encode() + b"\n")
    folder = cache / "tokenizers" / digest.hexdigest()
    return build_folder_once(folder, lambda temporary: _train(lines, vocab_size).save_pretrained(temporary))


def _train(lines: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=_SPECIAL_TOKENS, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
