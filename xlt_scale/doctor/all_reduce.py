"""An all-reduce over all processes, checked and timed, in processes of its own that are ended when they hang.

python -m xlt_scale.doctor.all_reduce SECONDS      one rank; prints what it found as JSON
"""

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

from xlt_scale.doctor.deadline import TookTooLong, within
from xlt_scale.doctor.findings import Finding
from xlt_scale.doctor.meeting import Meeting, listen
from xlt_scale.errors import reason

_SECONDS_TO_IMPORT = 90.0
_MEGABYTES = {"nccl": 256, "gloo": 16}
_NUM_TIMED = 5
_SLOW_GIGABYTES_PER_SECOND = 1.0


def check_all_reduce(meeting: Meeting, seconds: float) -> list[Finding]:
    """Start one process per rank that reduces together with the others. Called by all processes; the findings are
    rank 0's.
    """
    seat = meeting.seat
    if seat.size == 1:
        return [Finding("all-reduce", "-", "one process: start under srun or torchrun to try it")]
    if seat.is_head:
        start: dict[str, Any] | None = None
        if not meeting.absent:
            start = {"port": _free_port()}
        meeting.share(start, "all-reduce")
        if start is None:
            return [Finding("all-reduce", "-", "not tried while processes are missing")]
    else:
        start = meeting.share(None, "all-reduce")
        if start is None:
            return []
    answer = _run_one(seat.rank, seat.size, seat.local_rank, seat.head, start["port"], seconds)
    # The ranks end at about the same time: what hangs, hangs for all.
    answers = meeting.gather(answer, _SECONDS_TO_IMPORT + 2 * seconds, "all-reduce")
    return _judge(answers, seat.size, meeting) if seat.is_head else []


def _free_port() -> int:
    with listen(0) as probe:
        return int(probe.getsockname()[1])


def _run_one(rank: int, size: int, local_rank: int, head: str, port: int, seconds: float) -> dict[str, Any]:
    ranks = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local_rank, "MASTER_PORT": port}
    environment = os.environ | {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": head}
    # torchrun's own store is not used here.
    environment.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    command = [sys.executable, "-m", "xlt_scale.doctor.all_reduce", str(seconds)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_SECONDS_TO_IMPORT + seconds
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"did not end within {_SECONDS_TO_IMPORT + seconds:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if lines:
        return dict(json.loads(lines[-1]))
    errors = done.stderr.strip().splitlines()
    return {"problem": errors[-1] if errors else f"ended with exit code {done.returncode}"}


def _judge(answers: dict[int, dict[str, Any]], size: int, meeting: Meeting) -> list[Finding]:
    mend = "see the rows above for interface and port; NCCL_DEBUG=INFO or TORCH_DISTRIBUTED_DEBUG=DETAIL tells more"
    findings = []
    problems: dict[str, list[int]] = {}
    for rank, answer in answers.items():
        if answer["problem"]:
            problems.setdefault(answer["problem"], []).append(rank)
    for problem, ranks in problems.items():
        where = ", ".join(meeting.describe(rank) for rank in ranks[:4]) + (" ..." if len(ranks) > 4 else "")
        findings.append(Finding("all-reduce", "fail", f"{where}: {problem}", mend))
    if findings or len(answers) < size:
        return findings or [Finding("all-reduce", "fail", f"{size - len(answers)} ranks did not answer", mend)]
    slowest = min(answers.values(), key=lambda answer: answer["bus_gigabytes_per_second"])
    rate = slowest["bus_gigabytes_per_second"]
    found = (
        f"{slowest['backend']}, {size} ranks, {slowest['megabytes']} MB: sums are right; "
        f"{slowest['gigabytes_per_second']:.2f} GB/s, bus {rate:.2f} GB/s"
    )
    if (
        slowest["backend"] == "nccl"
        and any(guest.hello["node"] != meeting.seat.node for guest in meeting.guests.values())
        and rate < _SLOW_GIGABYTES_PER_SECOND
    ):
        mend = "is the fast network used? NCCL_DEBUG=INFO shows it; NCCL_SOCKET_IFNAME and NCCL_IB_HCA choose it"
        return [Finding("all-reduce", "warn", found, mend)]
    return [Finding("all-reduce", "pass", found)]


def reduce_once(seconds: float) -> dict[str, Any]:
    """Join the group that RANK, WORLD_SIZE and MASTER_* describe, and all-reduce: right, and how fast; collective.

    Algorithm bandwidth is bytes of the tensor by seconds; bus bandwidth is that times 2 (n - 1) / n, the bytes that
    each link carries in a ring, which does not depend on the number of ranks n.
    """
    import torch
    import torch.distributed as dist

    uses_cuda = torch.cuda.is_available()
    backend = "nccl" if uses_cuda else "gloo"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if uses_cuda else torch.device("cpu")
    if uses_cuda:
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
    rank, size = dist.get_rank(), dist.get_world_size()
    megabytes = _MEGABYTES[backend]
    # Small whole numbers: their sums are exact in fp32, in any order.
    pattern = torch.arange(megabytes * 250_000, device=device) % 1000
    values = (pattern + rank).float()
    dist.all_reduce(values)
    expected = (size * pattern + size * (size - 1) // 2).float()
    is_right = torch.equal(values, expected)
    best = float("inf")
    for _ in range(_NUM_TIMED):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        if uses_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    rate = megabytes / 1000 / best
    return {
        "problem": "" if is_right else "the sums are wrong",
        "backend": backend,
        "megabytes": megabytes,
        "gigabytes_per_second": rate,
        "bus_gigabytes_per_second": rate * 2 * (size - 1) / size,
    }


def main() -> None:
    seconds = float(sys.argv[1])
    try:
        answer = within(seconds + _SECONDS_TO_IMPORT - 10.0, lambda: reduce_once(seconds))
    except TookTooLong as error:
        answer = {"problem": f"hangs ({error})"}
    except Exception as error:  # each backend has kinds of its own
        answer = {"problem": reason(error)}
    print(json.dumps(answer), flush=True)
    # A group whose peers have gone would wait for them when it is taken down.
    os._exit(0)


if __name__ == "__main__":
    main()
