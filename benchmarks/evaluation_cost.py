"""What evaluating XNLI in 15 languages takes, as a share of an epoch of its training: the least that arithmetic allows.

Training computes forward and backward over MNLI's 392,702 pairs, evaluation only forward over 15 times 5,010 test
pairs. How long pairs are in each language is counted in the XNLI files below XLT_SCALE_DATA, with a tokenizer trained
on the lines of text there (a ratio of lengths does not need XLM-R's own). The shares take an equal number of operations
per second for training and evaluation; a quicker forward pass lowers them by as much.

    XLT_SCALE_DATA=DATA python benchmarks/evaluation_cost.py
"""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
from preprocessing import text_lines

from xlt_scale.modeling.tokenizer import load_tokenizer, trained_tokenizer
from xlt_scale.sizes import ModelSize, find_size, training_flops

TRAINING_PAIRS, TEST_PAIRS, DEVELOPMENT_PAIRS, NUM_LANGUAGES = 392_702, 5_010, 2_490, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--sizes", nargs="+", default=["xlmr-large", "xlmr-xl", "xlmr-xxl"])
    arguments = parser.parse_args()
    folder = Path(os.environ.get("XLT_SCALE_DATA", "")) / "targets" / "xnli"
    files = {path.stem.partition("-")[2]: path for path in sorted(folder.glob("dev-*.tsv"))}
    if "en" not in files:
        sys.exit(f"{folder} has no dev-en.tsv; set XLT_SCALE_DATA to the folder of published task files")
    lines, source = text_lines(random.Random(1))
    with tempfile.TemporaryDirectory() as place:
        tokenizer = load_tokenizer(str(trained_tokenizer(lines, arguments.vocabulary, Path(place))))
    print(f"Unigram tokenizer of {arguments.vocabulary} pieces, trained on {len(lines)} lines ({source}).\n")
    print("| language | pairs | tokens | mean | median | beside English | spread of ln(tokens) | longer than 128 |")
    print("|---|---|---|---|---|---|---|---|")
    lengths = {}
    for language, path in files.items():
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        ids = tokenizer([row[0] for row in rows], [row[1] for row in rows])["input_ids"]
        lengths[language] = np.array([len(sequence) for sequence in ids])
    english = lengths["en"]
    for language, found in lengths.items():
        print(
            f"| {language} | {len(found)} | {found.sum():,} | {found.mean():.1f} | {np.median(found):.0f} | "
            f"{found.mean() / english.mean():.2f} | {np.log(found).std():.2f} | {(found > 128).sum()} |"
        )
    print(f"\n{_shares(arguments.sizes, lengths, english)}")


def _shares(sizes: list[str], lengths: dict[str, np.ndarray], english: np.ndarray) -> str:
    ratio = np.mean([found.mean() for found in lengths.values()]) / english.mean()
    test, development = (NUM_LANGUAGES * pairs for pairs in (TEST_PAIRS, DEVELOPMENT_PAIRS))
    plain = test / TRAINING_PAIRS / 3
    lines = [
        f"{test:,} pairs forward / ({TRAINING_PAIRS:,} pairs x 3) = {plain:.2%} of an epoch's operations at equal "
        f"lengths; with pairs {ratio:.2f} times as long as English ones, the mean of these {len(lengths)} languages:",
        "",
        "| size | test sets | development sets | both | test sets, of three epochs | pairs for 2 % of an epoch |",
        "|---|---|---|---|---|---|",
    ]
    for name in sizes:
        size = find_size(name)

        every = np.concatenate(list(lengths.values()))
        epoch = _flops(size, english, TRAINING_PAIRS)
        shares = [_flops(size, every, pairs) / 3 / epoch for pairs in (test, development)]
        affordable = 0.02 / shares[0] * test
        figures = [f"{share:.1%}" for share in (*shares, sum(shares), shares[0] / 3)]
        lines.append("| " + " | ".join([name, *figures, f"{affordable:,.0f}"]) + " |")
    return "\n".join(lines)


def _flops(size: ModelSize, lengths: np.ndarray, num_pairs: int) -> float:
    """Forward and backward over so many pairs of such lengths."""
    scale = num_pairs / len(lengths)
    tokens, squares = lengths.sum() * scale, (lengths.astype(float) ** 2).sum() * scale
    parameters = size.num_non_embedding_parameters
    return training_flops(parameters, size.num_layers, size.attention_width, int(tokens), int(squares))


if __name__ == "__main__":
    main()
