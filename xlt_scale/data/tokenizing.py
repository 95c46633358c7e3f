"""From examples of any format to tokens, through the cache."""

from pathlib import Path
from typing import Any

from xlt_scale.data.choice_tokens import tokenize_choices
from xlt_scale.data.ranking_tokens import QUERY_MAX_LENGTH, tokenize_rankings
from xlt_scale.data.tagging_tokens import tokenize_tagged
from xlt_scale.data.text_tokens import tokenize_joined_lines, tokenize_texts
from xlt_scale.data.token_cache import content_key, kept_or_made
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.data.window_tokens import tokenize_questions
from xlt_scale.tasks.examples import (
    ChoiceExamples,
    Examples,
    QuestionExamples,
    RankingExamples,
    TaggedExamples,
    TextExamples,
)


def tokenize(
    examples: Examples,
    tokenizer: Any,
    max_length: int,
    *,
    join_lines: bool = False,
    token_types: bool = False,
    stride: int = 128,
    query_max_length: int = QUERY_MAX_LENGTH,
    cache: Path | None = None,
) -> TokenizedData:
    """Tokenise examples by their class, or read them from the cache when the same was tokenised before.

    What happens to long texts is said in the module of each format. Bitexts are tokenised by their texts, as
    `TextExamples`.

    Args:
        max_length: tokens of a sequence at most, special ones included.
        join_lines: texts only: consecutive ones fill sequences of `max_length`.
        token_types: also give token types, for models that have them.
        stride: questions only: tokens of the passage that neighbouring windows share.
        query_max_length: rankings only: tokens of a query at most. Candidates have `max_length`.
        cache: a folder that many processes may share; None = nothing is kept.

    Raises:
        UserError: `max_length` leaves no room for text, `stride` none for new text, or the cache cannot be written.
    """

    def make() -> TokenizedData:
        match examples:
            case TextExamples() if join_lines:
                return tokenize_joined_lines(examples.texts, tokenizer, max_length)
            case TextExamples():
                return tokenize_texts(examples, tokenizer, max_length, token_types)
            case ChoiceExamples():
                return tokenize_choices(examples, tokenizer, max_length, token_types)
            case QuestionExamples():
                return tokenize_questions(examples, tokenizer, max_length, stride, token_types)
            case TaggedExamples():
                return tokenize_tagged(examples, tokenizer, max_length, token_types)
            case RankingExamples():
                return tokenize_rankings(examples, tokenizer, max_length, token_types, query_max_length)
        raise TypeError(f"{type(examples).__name__} are not tokenised as a whole")

    if cache is None:
        return make()
    settings: dict[str, Any] = {"max_length": max_length, "join_lines": join_lines, "token_types": token_types}
    if isinstance(examples, QuestionExamples):
        settings["stride"] = stride
    if isinstance(examples, RankingExamples):
        settings["query_max_length"] = query_max_length
    return kept_or_made(cache, content_key(examples, tokenizer, settings), make)
