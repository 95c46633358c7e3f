"""Score a model on any tasks and languages: a checkpoint of ours (sharded or exported), or any Hugging Face encoder.

    python launch/evaluate.py runs/micro/phases/target micro-valence micro-retrieval --output runs/micro-scores
    torchrun --nproc-per-node 8 launch/evaluate.py xlm-roberta-large tatoeba bucc2018 --output runs/retrieval \\
        --set phases.evaluate.retrieval_layers=all
    deepspeed launch/evaluate.py runs/large/phases/target xnli --languages sw ur --output runs/large-sw

Any launcher will do, or none (docs/evaluation.md). Predictions and labels are kept in XTREME's layout, for `xlt-scale
score`; started again, also with other tasks and languages, what is scored already stays.
"""

import argparse
from pathlib import Path

from xlt_scale.cluster.ending import run_as_program
from xlt_scale.collector import importing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", help="a phase's folder (runs/NAME/phases/PHASE), a checkpoint's, a model's or a hub name"
    )
    parser.add_argument("tasks", nargs="+", help="tasks to score (`xlt-scale tasks` lists them)")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for scores and predictions")
    parser.add_argument(
        "--languages", nargs="+", default=[], metavar="CODE", help="default: all that there are data for"
    )
    parser.add_argument("--split", default="auto", choices=("auto", "dev", "test"), help="default: test if labelled")
    parser.add_argument(
        "--options", metavar="FILE", help="a run file whose [tasks], [data] and [engine] tables hold here too"
    )
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="KEY=VALUE", help="any option of a run file"
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    with importing():
        from xlt_scale.config_files import read_toml
        from xlt_scale.planning.auto import resolve_for_this_rank
        from xlt_scale.training.run import run
        from xlt_scale.training.standalone import evaluation_run

    settings = [f"phases.evaluate.evaluate_split={arguments.split}"]
    if arguments.languages:
        settings.append(f"phases.evaluate.evaluate_languages={arguments.languages}")
    settings += arguments.settings
    tables = read_toml(Path(arguments.options)) if arguments.options else {}
    run(resolve_for_this_rank(evaluation_run(arguments.model, arguments.tasks, arguments.output, settings, tables)))


if __name__ == "__main__":
    run_as_program(main)
