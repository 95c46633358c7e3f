"""Scores of a phase on its targets, and the evaluator that scores it on the dev set while it trains."""

from typing import Any

from xlt_scale.engines.interface import Engine
from xlt_scale.evaluation.score import SCORER_VERSIONS, Evaluator
from xlt_scale.training.environment import write_json
from xlt_scale.training.job import PhaseJob
from xlt_scale.training.setup import read_json


def evaluator(job: PhaseJob, engine: Engine) -> Evaluator:
    """The evaluator of a phase's model. Without gradients a forward pass has room for twice the tokens."""
    setup = job.setup
    return Evaluator(
        engine=engine,
        preparer=setup.preparer,
        token_budget=2 * setup.options.engine.max_tokens_per_micro_batch,
        padded=not setup.plan.unpadded,
        retrieval_layer=_retrieval_layer(job),
    )


def is_scored(job: PhaseJob) -> bool:
    """Whether the scores of an earlier start are there and answer the same request."""
    return not job.phase.evaluate or read_json(job.folder / "scores.json").get("request") == _request(job)


def score(job: PhaseJob, engine: Engine) -> None:
    """Score the phase's tasks in all their languages; rank 0 writes scores and predictions. Collective."""
    if not job.phase.evaluate:
        return
    setup, request = job.setup, _request(job)
    evaluation = evaluator(job, engine)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for task, wanted in request["tasks"].items():
        spec, split, languages = setup.catalogue[task], wanted["split"], wanted["languages"]
        setup.announce(f"phase {job.phase.name}: scoring {task} ({split}) in {', '.join(languages)}")
        folder = job.folder / "predictions"
        scores[task] = {language: evaluation.score(spec, split, language, folder) for language in languages}
    table = {"scores": scores, "request": request, "phase": job.phase.name}
    setup.world.share(lambda: write_json(job.folder / "scores.json", table))


def _retrieval_layer(job: PhaseJob) -> int:
    return round(job.phase.retrieval_depth * job.setup.plan.num_layers)


def _request(job: PhaseJob) -> dict[str, Any]:
    """What is scored and how, as it stands in scores.json."""
    plan = job.setup.scoring(job.phase, [head.name for head in job.heads])
    return {
        "tasks": {task: {"split": split, "languages": languages} for task, (split, languages) in plan.items()},
        "scorers": {task: SCORER_VERSIONS[job.setup.catalogue[task].kind] for task in plan},
        "retrieval_layer": _retrieval_layer(job),
        # A phase without training has no data in its name; and scores are of the data, not of the weights alone.
        "data": {generator: str(root) for generator, root in job.setup.preparer.source.roots.items()},
        "data_source": job.setup.options.data.source,
        "tokenizer": job.setup.options.model.tokenizer,
    }
