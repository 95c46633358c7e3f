"""Write a checkpoint as a Hugging Face folder, for from_pretrained to load; a single process, no GPU needed.

    python launch/export.py runs/micro/phases/target exported/micro
    python launch/export.py runs/micro/phases/target exported/encoder --head none --dtype bfloat16

`xlt-scale export` does the same.
"""

import argparse
from pathlib import Path

from xlt_scale.cluster.ending import run_as_program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a phase's folder (runs/NAME/phases/PHASE), or a checkpoint's")
    parser.add_argument("folder", type=Path, help="folder to write; must not exist yet")
    parser.add_argument(
        "--head", default="", metavar="NAME", help="the head to export; none: the bare encoder; default: the only one"
    )
    parser.add_argument("--dtype", default="float32", help="of the weights: float32 (default), bfloat16 or float16")
    parser.add_argument("--max-shard-size", default="5GB", metavar="BYTES", help="weights in a file (default 5GB)")
    parser.add_argument(
        "--max-memory", default="2GB", metavar="BYTES", help="memory that the program may take (default 2GB)"
    )
    arguments = parser.parse_args()

    from xlt_scale.checkpoint.huggingface_export import ExportOptions, export_checkpoint

    options = ExportOptions(arguments.head, arguments.dtype, arguments.max_shard_size, arguments.max_memory)
    export_checkpoint(arguments.checkpoint, arguments.folder, options)


if __name__ == "__main__":
    run_as_program(main)
