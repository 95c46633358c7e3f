"""What tokenizers of decoders lack: a special token behind each text, and one that stands for a masked one."""

import json
import logging
from typing import Any

from xlt_scale.data.frames import find_frame
from xlt_scale.errors import UserError

logger = logging.getLogger(__name__)

_MASKS = ("<mask>", "<extra_id_0>", "_")
"""In vocabularies without a mask token of their own: Gemma's unused one, T5's first sentinel, and what LLM2Vec masked
Llama's texts with (BehnamGhader et al. 2024)."""


def close_sequences(tokenizer: Any) -> None:
    """Let a fast tokenizer end each text of a sequence with a special token, where it does not: A </s> B </s>.

    Two texts of a pair would else run into each other, and the last token, which may stand for the whole, would be any.
    What it puts before the first text stays. Tokenizers that separate and end texts are left as they are.

    Raises:
        UserError: it has no special token that could end a text.
    """
    if not tokenizer.is_fast:
        return
    frame = find_frame(tokenizer, pair=True)
    opening, between, closing = (tokens.tolist() for tokens in frame.specials)
    if between and closing:
        return
    end = tokenizer.sep_token or tokenizer.eos_token
    if end is None:
        raise UserError(
            f"model.tokenizer = {tokenizer.name_or_path!r} puts nothing behind a text and has no eos_token; add one to "
            "its tokenizer_config.json"
        )
    _frame(tokenizer, tokenizer.convert_ids_to_tokens(opening), end)
    logger.info("the tokenizer ends no text by itself: %s is put behind each", end)


def _frame(tokenizer: Any, opening: list[str], end: str) -> None:
    from tokenizers import processors

    template = processors.TemplateProcessing(
        single=[*opening, "$A:0", f"{end}:0"],
        pair=[*opening, "$A:0", f"{end}:0", "$B:1", f"{end}:1"],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in {*opening, end}],
    )
    before = json.loads(tokenizer.backend_tokenizer.to_str()).get("post_processor") or {}
    parts = before.get("processors", [before])
    # The part that says which characters a token of bytes covers is no matter of special tokens.
    bytes_of_tokens = [
        processors.ByteLevel(**{name: value for name, value in part.items() if name != "type"})
        for part in parts
        if part.get("type") == "ByteLevel"
    ]
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([*bytes_of_tokens, template])


def mask_token(tokenizer: Any, wanted: str = "") -> str | None:
    """The token that stands for a masked one: the one wanted, the tokenizer's own, or the first of some that its
    vocabulary has; None where there is none.

    Raises:
        UserError: its vocabulary does not have the one wanted.
    """
    if not wanted and tokenizer.mask_token is not None:
        return str(tokenizer.mask_token)
    vocabulary = tokenizer.get_vocab()
    if wanted and wanted not in vocabulary:
        raise UserError(f"model.mask_token = {wanted!r} is no entry of the tokenizer; name one, or remove it")
    return wanted or next((token for token in _MASKS if token in vocabulary), None)
