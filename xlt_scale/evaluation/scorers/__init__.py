"""Scorers: pure functions from predictions and labels to numbers, each with a version that is written beside them."""

from xlt_scale.evaluation.scorers.classification import (
    ACCURACY_AND_F1_VERSION,
    ACCURACY_VERSION,
    score_accuracy,
    score_accuracy_and_f1,
)
from xlt_scale.evaluation.scorers.correlation import CORRELATION_VERSION, score_correlation
from xlt_scale.evaluation.scorers.mlqa import MLQA_VERSION, score_mlqa
from xlt_scale.evaluation.scorers.retrieval import (
    BITEXT_MINING_VERSION,
    MAP_AT_20_VERSION,
    RETRIEVAL_VERSION,
    score_bitext_accuracy,
    score_bitext_mining,
    score_map_at_20,
)
from xlt_scale.evaluation.scorers.score import COUNTS, Score, Scorer
from xlt_scale.evaluation.scorers.squad import SQUAD_V2_VERSION, SQUAD_VERSION, score_squad, score_squad_v2
from xlt_scale.evaluation.scorers.tagging import (
    ENTITY_F1_VERSION,
    TAGGING_F1_VERSION,
    TOKEN_ACCURACY_VERSION,
    score_bare_tags,
    score_entities,
    score_tokens,
)

SCORERS: dict[str, Scorer] = {
    "accuracy": Scorer(ACCURACY_VERSION, "accuracy", score_accuracy),
    "accuracy_and_f1": Scorer(ACCURACY_AND_F1_VERSION, "accuracy", score_accuracy_and_f1),
    "correlation": Scorer(CORRELATION_VERSION, "pearson", score_correlation),
    "entity_f1": Scorer(ENTITY_F1_VERSION, "f1", score_entities),
    "tagging_f1": Scorer(TAGGING_F1_VERSION, "f1", score_bare_tags),
    "token_accuracy": Scorer(TOKEN_ACCURACY_VERSION, "token_accuracy", score_tokens),
    "squad": Scorer(SQUAD_VERSION, "f1", score_squad),
    "squad_v2": Scorer(SQUAD_V2_VERSION, "f1", score_squad_v2),
    "mlqa": Scorer(MLQA_VERSION, "f1", score_mlqa),
    "bitext_accuracy": Scorer(RETRIEVAL_VERSION, "accuracy", score_bitext_accuracy),
    "bitext_mining": Scorer(BITEXT_MINING_VERSION, "f1", score_bitext_mining),
    "map_at_20": Scorer(MAP_AT_20_VERSION, "map_at_20", score_map_at_20),
}
"""Scorers by the `metric` of a task declaration."""

__all__ = ["COUNTS", "SCORERS", "Score", "Scorer"]
