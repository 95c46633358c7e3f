"""Train the phases of a run file and score them.

    deepspeed --num_gpus 2 launch/train.py --run launch/runs/micro.toml
    torchrun --nproc-per-node 2 launch/train.py --run launch/runs/micro.toml --set engine.name=fsdp2

Any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK and MASTER_* will do; without one, a single process runs.
"""

import argparse

from xlt_scale.config import load_run
from xlt_scale.errors import run_as_program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, metavar="RUN.toml", help="the run file (docs/run_file.md)")
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="KEY=VALUE", help="override an option, repeatable"
    )
    parser.add_argument("--deepspeed_config", default="", metavar="FILE", help="DeepSpeed JSON file of the zero3 engine")
    # DeepSpeed's launcher adds this one; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    settings = list(arguments.settings)
    if arguments.deepspeed_config:
        settings.append(f"engine.deepspeed_config={arguments.deepspeed_config}")
    options = load_run(arguments.run, settings)

    from xlt_scale.training.run import run

    run(options)


if __name__ == "__main__":
    run_as_program(main)
