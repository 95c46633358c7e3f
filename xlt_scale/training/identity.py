"""The name of a phase: a hash of everything that decides its result."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xlt_scale.config import PhaseOptions

if TYPE_CHECKING:  # a study's grid is named without loading torch
    from xlt_scale.modeling.encoder import EncoderPlan
    from xlt_scale.modeling.heads import HeadSpec

# Raise this when a change of the code changes the numbers that the same options give.
NUMERICS_VERSION = 1

WITHOUT_INFLUENCE = {
    "name",
    "parent",
    "evaluate",
    "evaluate_languages",
    "evaluate_split",
    "evaluate_examples",
    "retrieval_depth",
    "retrieval_layers",
    "no_answer_threshold",
    "max_answer_tokens",
    "baseline",
    "weights",
    "preset",
    "steps",
    "epochs",
    "seed",
}
"""Options that name, score or compare a phase without changing its weights, or are in its identity by their effect."""


def phase_identity(
    phase: PhaseOptions,
    *,
    plan: "EncoderPlan",
    heads: Sequence["HeadSpec"],
    origin: str,
    data: Mapping[str, str],
    num_steps: int,
    seed: int,
    precision: str,
    max_length: int,
    quantised: Sequence[str] = (),
    float8: bool = False,
    mask_token: str = "",
) -> dict[str, Any]:
    """Everything that decides the result of a phase, as JSON holds it.

    Engine, world size and token budget are not in it: they change a result by rounding only, and are recorded beside
    it. Quantised communication and float8 products change it by more.

    Args:
        origin: what the encoder starts from: the parent's hash, a pre-trained model with its revision, or the seed of
            fresh weights.
        data: fingerprint of the training data of each task, and of the dev set when that chooses the result.
        quantised: what the engine quantises on its way between processes (`quantised_communication`).
        float8: whether the encoder's layers multiply in float8.
        mask_token: what stands for a masked token where the tokenizer has none for it and the phase masks some.
    """
    decisive = phase.model_dump(mode="json", exclude=WITHOUT_INFLUENCE)
    # What a head reads is in the identity as the head's own; phases from before there was a choice keep their names.
    decisive["pooling"] = "first" if phase.pooling == "auto" else phase.pooling
    if phase.objective == "masked_token":
        decisive.pop("objective")
    if phase.keep == "last":
        for name in ("evaluate_every", "evaluation_examples"):
            decisive.pop(name)
    config: dict[str, Any] = plan.config.to_dict()
    for name in ("transformers_version", "_name_or_path", "dtype", "torch_dtype"):
        config.pop(name, None)
    facts: dict[str, Any] = {
        "numerics": NUMERICS_VERSION,
        "phase": decisive,
        "model": config,
        "unpadded": plan.unpadded,
        "heads": [vars(head) for head in heads],
        "origin": origin,
        "data": dict(data),
        "num_steps": num_steps,
        "seed": seed,
        "precision": precision,
        "max_length": max_length,
    }
    if quantised:
        facts["quantised_communication"] = sorted(quantised)
    if float8:
        facts["float8"] = True
    if mask_token:
        facts["mask_token"] = mask_token
    return json.loads(json.dumps(facts))


def hash_of(identity: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that name the result of a phase."""
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()
