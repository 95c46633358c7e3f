"""Small studies whose sizes are of several architecture families, with gains and slopes that are known."""

import math
from collections.abc import Mapping
from typing import Any

from small_studies import make_results

from xlt_scale.scaling.results import ArmFacts, SizeFacts, StudyResults, TargetFacts

XLM_R = (
    SizeFacts("xlmr-base", "XLM-R", False, 277_000_000, 85_000_000),
    SizeFacts("xlmr-large", "XLM-R", False, 559_000_000, 302_000_000),
    SizeFacts("xlmr-xl", "XLM-R", True, 3_480_000_000, 2_830_000_000),
    SizeFacts("xlmr-xxl", "XLM-R", True, 10_700_000_000, 9_670_000_000),
)
QWEN = (
    SizeFacts("qwen3-0.6b", "Qwen3", True, 596_000_000, 440_000_000, True),
    SizeFacts("qwen3-4b", "Qwen3", True, 4_020_000_000, 3_630_000_000, True),
    SizeFacts("qwen3-14b", "Qwen3", True, 14_000_000_000, 13_200_000_000, True),
    SizeFacts("qwen3-32b", "Qwen3", True, 32_000_000_000, 31_200_000_000, True),
)
GEMMA = (
    SizeFacts("gemma3-270m", "Gemma 3", True, 268_000_000, 100_000_000, True),
    SizeFacts("gemma3-4b", "Gemma 3", True, 3_880_000_000, 3_210_000_000, True),
    SizeFacts("gemma3-27b", "Gemma 3", True, 27_000_000_000, 25_600_000_000, True),
)
REMBERT = SizeFacts("rembert", "RemBERT", False, 576_000_000, 528_000_000)
SIZES = (*XLM_R, *QWEN, *GEMMA)


def decades(size: SizeFacts) -> float:
    """log10 of parameters over those of XLM-R Base, the reference."""
    return math.log10(size.num_parameters / XLM_R[0].num_parameters)


def families_study(levels: Mapping[str, float], slopes: Mapping[str, float], **options: Any) -> StudyResults:
    """Gains in points: by family its level at the reference size plus its slope per tenfold parameters."""

    def gain(size: SizeFacts, arm: ArmFacts, target: TargetFacts, language: str) -> float:
        return levels[size.family] + slopes[size.family] * decades(size)

    return make_results(gain, **{"sizes": SIZES, **options})
