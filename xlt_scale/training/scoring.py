"""Scores of a phase on its targets, and the evaluator that scores it on the dev set while it trains."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from xlt_scale.engines.interface import Engine
from xlt_scale.evaluation.answers import DecodingOptions
from xlt_scale.evaluation.benchmarks import benchmark_totals
from xlt_scale.evaluation.retrieval import Layers
from xlt_scale.evaluation.score import Evaluator
from xlt_scale.evaluation.scorers import SCORERS
from xlt_scale.training.environment import write_json
from xlt_scale.training.job import PhaseJob
from xlt_scale.training.scored import left_to_score, remove_outdated, with_scores
from xlt_scale.training.setup import read_json, stop_between_steps


def evaluator(job: PhaseJob, engine: Engine) -> Evaluator:
    """The evaluator of a phase's model. Without gradients a forward pass has room for twice the tokens."""
    setup, phase = job.setup, job.phase
    num_layers = setup.plan.num_layers
    return Evaluator(
        engine=engine,
        preparer=setup.preparer_of(phase),
        token_budget=2 * setup.options.engine.max_tokens_per_micro_batch,
        padded=not setup.plan.unpadded,
        layers=Layers(
            chosen=_retrieval_layer(job),
            all=range(num_layers + 1) if phase.retrieval_layers == "all" else (),
            hidden_size=setup.plan.hidden_size,
        ),
        max_examples=phase.evaluate_examples,
        decoding=DecodingOptions(phase.no_answer_threshold, phase.max_answer_tokens),
    )


def is_scored(job: PhaseJob) -> bool:
    """Whether earlier starts have scored everything that is asked for, in the way that is asked for; collective."""
    return not job.phase.evaluate or not left_to_score(_scores_so_far(job), _request(job))


def score(job: PhaseJob, engine: Engine) -> None:
    """Score the phase's tasks in all their languages, but for what earlier starts have scored; rank 0 writes scores and
    predictions. Collective.
    """
    if not job.phase.evaluate:
        return
    setup, request, table = job.setup, _request(job), _scores_so_far(job)
    evaluation = evaluator(job, engine)
    for task, languages in left_to_score(table, request).items():
        stop_between_steps(setup, f"phase {job.phase.name} is trained, {task} is left to score")
        setup.world.mark.at(f"scoring {task}", step=0)
        spec, split = setup.catalogue[task], request[task]["split"]
        setup.announce(f"phase {job.phase.name}: scoring {task} ({split}) in {', '.join(languages)}")
        setup.world.share(partial(remove_outdated, job.folder, table, task, request[task]))
        found = evaluation.score(spec, split, languages, job.folder)
        table = _table(job, with_scores(table, task, request[task], found))
        # After each task: a start that is interrupted has not worked in vain.
        setup.world.share(partial(write_json, job.folder / "scores.json", table))


def _scores_so_far(job: PhaseJob) -> dict[str, Any]:
    return job.setup.world.share(lambda: read_json(job.folder / "scores.json"))


def _table(job: PhaseJob, found: Mapping[str, Any]) -> dict[str, Any]:
    scores, tasks = found["scores"], found["tasks"]
    headlines = {task: request["headline"] for task, request in tasks.items()}
    return {
        "scores": scores,
        "benchmarks": benchmark_totals(scores),
        "request": {"tasks": tasks, "headlines": headlines},
        "phase": job.phase.name,
    }


def _retrieval_layer(job: PhaseJob) -> int:
    return round(job.phase.retrieval_depth * job.setup.plan.num_layers)


def _request(job: PhaseJob) -> dict[str, dict[str, Any]]:
    """What is scored and how, by task, as it stands in scores.json."""
    plan = job.setup.scoring(job.phase, job.heads)
    return {task: _request_of(job, task, split, languages) for task, (split, languages) in plan.items()}


def _request_of(job: PhaseJob, task: str, split: str, languages: list[str]) -> dict[str, Any]:
    """What is scored of a task, and everything beside the weights that decides its scores."""
    setup, phase, spec = job.setup, job.phase, job.setup.catalogue[task]
    root = setup.preparer.source.roots.get(spec.generator)
    request: dict[str, Any] = {
        "split": split,
        "languages": languages,
        "max_examples": phase.evaluate_examples,
        "max_length": setup.preparer_of(phase).length_of(spec),
        "labels": spec.labels,
        "scorer": SCORERS[spec.metric].version,
        "headline": SCORERS[spec.metric].headline,
        # A phase without training has no data in its name; and scores are of the data, not of the weights alone.
        "data": None if root is None else str(root),
        "data_source": setup.options.data.source,
        "tokenizer": setup.options.model.tokenizer,
    }
    if spec.kind in ("retrieval", "bitext_mining"):
        request |= {
            "layer": _retrieval_layer(job),
            "layers": phase.retrieval_layers,
            "pooling": "mean over all tokens, special ones included",
        }
    if spec.kind == "span":
        request |= {"no_answer_threshold": phase.no_answer_threshold, "max_answer_tokens": phase.max_answer_tokens}
    return request
