"""One case of training_speed.py on the stand-in: `python stand_in_gpu/worker.py CASE.json ANSWER.json`.

Runs with the environment of `build.environment`. Numbers that the host reads from the device are zeros, so losses and
norms are 0 and nothing ever overflows. `adapt` says what else is not as on a real device.
"""

import json
import sys
from pathlib import Path

import torch
from training_speed_cases import Case
from training_speed_worker import answer_of

from xlt_scale.planning.hardware import GIB


def main() -> None:
    case = Case(**json.loads(Path(sys.argv[1]).read_text()))
    adapt(case)
    answer = answer_of(case)
    answer["allocated_gib"] = torch.cuda.max_memory_allocated() / GIB
    answer["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
    Path(sys.argv[2]).write_text(json.dumps(answer))


def adapt(case: Case) -> None:
    """Go around what needs values or libraries that the stand-in has not; neither takes memory.

    Attention of the stock stacks never takes cuDNN's kernels, which cuDNN plans in its own library. DeepSpeed compares
    lists of parameters with those of rank 0 by way of the device: with one rank they are the same.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if case.engine == "zero3" or case.stack == "deepspeed":
        from deepspeed.runtime.zero import utils

        utils.assert_lst_len_same_as_other_ranks = utils.get_lst_from_rank0 = list


if __name__ == "__main__":
    main()
