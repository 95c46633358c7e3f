"""Train the phases of a run file and score them.

    deepspeed --num_gpus 2 launch/train.py --run launch/runs/micro.toml
    torchrun --nproc-per-node 2 launch/train.py launch/runs/micro.toml --set engine.name=fsdp2

Any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK and MASTER_* will do; without one, a single process runs. The run
file may be given with or without --run: torchrun of Python 3.11 takes every --run for an abbreviation of its own
--run-path.
"""

import argparse

from xlt_scale.cluster.ending import run_as_program
from xlt_scale.collector import importing
from xlt_scale.config import load_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run_file = parser.add_mutually_exclusive_group(required=True)
    run_file.add_argument("run_file", nargs="?", metavar="RUN.toml", help="the run file (docs/run_file.md)")
    run_file.add_argument("--run", metavar="RUN.toml", help="the same")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="override an option, repeatable",
    )
    parser.add_argument(
        "--deepspeed_config", default="", metavar="FILE", help="DeepSpeed JSON file of the zero3 engine"
    )
    parser.add_argument(
        "--resume",
        default="",
        metavar="auto|never|PATH",
        help="go on where the folder's last start ended (auto, the default), start anew, or go on from this checkpoint",
    )
    # DeepSpeed's launcher adds this one; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    settings = list(arguments.settings)
    if arguments.deepspeed_config:
        settings.append(f"engine.deepspeed_config={arguments.deepspeed_config}")
    if arguments.resume:
        settings.append(f"resume={arguments.resume}")
    options = load_run(arguments.run or arguments.run_file, settings)

    if options.engine.auto:
        from xlt_scale.planning.auto import resolve_for_this_rank

        options = resolve_for_this_rank(options)

    with importing():
        from xlt_scale.training.run import run

    run(options)


if __name__ == "__main__":
    run_as_program(main)
