"""Examples tokenised per second on one core, beside the bare call of the tokenizer that makes the same sequences.

Sentence pairs (natural language inference) and windows of passages (question answering) are put together from lines of
text: those below XLT_SCALE_DATA/text, in many languages and scripts, or made-up words where there are none. The
tokenizer is a Unigram model trained on the same lines. Both sides run in this process with one thread, by turns; the
figures are medians.

    TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 python benchmarks/preprocessing.py
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before any import of the tokenizers

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xlt_scale.data.tokenizing import tokenize
from xlt_scale.modeling.tokenizer import load_tokenizer, trained_tokenizer
from xlt_scale.tasks.examples import Examples, QuestionExamples, TextExamples

PAIR_LENGTH, WINDOW_LENGTH, STRIDE = 128, 384, 128
PASSAGE_CHARACTERS = 900  # about SQuAD's mean is 750
MAX_SENTENCE_CHARACTERS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000, help="pairs, and questions")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    random_numbers = random.Random(arguments.seed)
    lines, source = text_lines(random_numbers)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(str(trained_tokenizer(lines, arguments.vocabulary, Path(folder))))
    random_numbers.shuffle(lines)
    print(f"{len(lines)} lines ({source}), vocabulary {len(tokenizer)}, {arguments.repeats} repeats, one thread.")
    print(f"transformers {version('transformers')}, tokenizers {version('tokenizers')}.\n")
    print("| input | sequences | ours, examples/s | bare tokenizer, examples/s | our time / its time |")
    print("|---|---|---|---|---|")
    pairs = sentence_pairs(lines, arguments.examples)
    report("sentence pairs", tokenizer, pairs, PAIR_LENGTH, arguments.repeats)
    for questions_per_passage in (1, 5):
        questions = passage_questions(lines, arguments.examples, questions_per_passage)
        name = f"windows, {questions_per_passage} question{'s' * (questions_per_passage > 1)} per passage"
        report(name, tokenizer, questions, WINDOW_LENGTH, arguments.repeats)


def text_lines(random_numbers: random.Random) -> tuple[list[str], str]:
    """Lines of published text where they are; else sentences of made-up words."""
    root = os.environ.get("XLT_SCALE_DATA", "")
    paths = sorted((Path(root) / "text").glob("*.txt")) if root else []
    if paths:
        lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return lines, f"{len(paths)} languages"
    syllables = [a + b + c for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("", "l", "n", "r", "s")]
    words = ["".join(random_numbers.choices(syllables, k=random_numbers.randint(1, 3))) for _ in range(20_000)]
    frequencies = [1 / rank for rank in range(1, len(words) + 1)]
    lines = [
        " ".join(random_numbers.choices(words, frequencies, k=random_numbers.randint(4, 25))) for _ in range(50_000)
    ]
    return lines, "made-up words"


def endless(lines: list[str]) -> Iterator[str]:
    while True:
        yield from lines


def sentence_pairs(lines: list[str], number: int) -> TextExamples:
    """Two sentences each, with labels."""
    sentences = endless([line for line in lines if len(line) <= MAX_SENTENCE_CHARACTERS])
    first, second = ([next(sentences) for _ in range(number)] for _ in range(2))
    return TextExamples(first, second, [i % 3 for i in range(number)])


def passage_questions(lines: list[str], number: int, per_passage: int) -> QuestionExamples:
    """Questions about passages of several lines; the answer is a stretch out of the middle."""
    text, questions = endless(lines), endless([line for line in lines if len(line) <= 80])
    examples = QuestionExamples()
    passage = ""
    for i in range(number):
        if i % per_passage == 0:
            passage = next(text)
            while len(passage) < PASSAGE_CHARACTERS:
                passage += " " + next(text)
        start = len(passage) // (2 + i % per_passage)
        examples.ids.append(str(i))
        examples.questions.append(next(questions))
        examples.contexts.append(passage)
        examples.answers.append([(passage[start : start + 12], start)])
    return examples


def report(name: str, tokenizer: Any, examples: Examples, max_length: int, repeats: int) -> None:
    """One line of the table."""
    ours, bare = [], []
    for _ in range(repeats):
        bare.append(seconds(lambda: bare_call(tokenizer, examples)))
        ours.append(seconds(lambda: tokenize(examples, tokenizer, max_length, stride=STRIDE)))
    data = tokenize(examples, tokenizer, max_length, stride=STRIDE)
    assert data.num_sequences == len(bare_call(tokenizer, examples)["input_ids"]), "not the same sequences"
    mine, its = statistics.median(ours), statistics.median(bare)
    size = len(examples)
    print(f"| {name} | {data.num_sequences} | {size / mine:,.0f} | {size / its:,.0f} | {mine / its:.2f} |", flush=True)


def bare_call(tokenizer: Any, examples: Examples) -> Any:
    """What a script would write that uses the tokenizer alone, the whole data set in one call."""
    if isinstance(examples, QuestionExamples):
        return tokenizer(
            examples.questions,
            examples.contexts,
            truncation="only_second",
            max_length=WINDOW_LENGTH,
            stride=STRIDE,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
    assert isinstance(examples, TextExamples)
    return tokenizer(examples.texts, examples.text_pairs, truncation=True, max_length=PAIR_LENGTH)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
