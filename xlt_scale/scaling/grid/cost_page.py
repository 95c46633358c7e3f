"""docs/cost.md: what the studies of size cost, written from the plan itself so that it cannot drift.

python -m xlt_scale.scaling.grid.cost_page > docs/cost.md
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xlt_scale.planning.cluster_files import describe_cluster
from xlt_scale.scaling.grid.study_plan import StudyPlan, plan_study
from xlt_scale.scaling.grid.study_plan_tables import devices_of, hours, size_of
from xlt_scale.study_config import load_study

STUDY = "studies/size_beyond_10b.toml"
FAMILIES = "studies/size_beyond_10b_families.toml"
CLUSTERS = {"hgx-h200": "H200", "a100-80g": "A100-80"}
NUM_DEVICES = (8, 64, 512)
_SHORT_JOBS = 2.0
_FSDP2 = ("run.engine.auto=true", "run.engine.name=fsdp2")

_INTRODUCTION = """\
# What studies of size cost

`studies/size_beyond_10b.toml` asks whether the benefit of intermediate training diminishes past 10 billion
parameters: four sizes, three arms, seven targets, three intermediate seeds and one or two target seeds, and a search
of the learning rate with the same trials in every arm. This page says what that takes on 8, 64 and 512 GPUs of two
kinds.

**Every number here is a prediction.** The planner computes it from shapes, published numbers of examples and typical
lengths; none of it was measured. How far the planner is from what has been measured is in [planning.md](planning.md).
As soon as phases of a study have run, `xlt-scale study run STUDY.toml --dry-run` counts with their measured seconds.

"""

_FAMILIES_INTRODUCTION = """\
## Four families, to 27 billion parameters
`studies/size_beyond_10b_families.toml` asks the same of XLM-R, Qwen3, Gemma 3 and mT5's encoders: fifteen sizes, two
arms, three targets, three intermediate seeds, and a search of the learning rate that both arms share. As the file is
written: FSDP2 with the planner's choice per size. Of the three other families neither memory nor speed has been
measured on a GPU (what their layers keep has been counted on the real classes). Decoders run without an adaptation
phase here.

"""

_END = """\
## How to read it
- **Devices a run**: of those that fit, the number with the fewest device hours; `1/4` means that four runs share a
  GPU. Runs of a study are many and small, with 16 or 32 examples a step: a step gets little faster on more GPUs, so
  those of a cluster are for many runs side by side.
- **Runs that share a GPU** are counted as if the GPU's own work were done one after another and the host's at the
  same time. That has not been measured.
- **Wall hours** are from the first job to the last, each job started as soon as what it needs is done and GPUs are
  free. No queue, no failures, no start-up of processes. A job is given phases for up to `resources.hours_per_job`
  (12) hours, and on many GPUs the longest chain of jobs decides: the last column is with 2 hours.
- **Disk** is the most at once: checkpoints and results of the jobs that run, and encoders that others wait for.
- The learning-rate search is counted with all its trials, and every target once its rate is chosen.
- Left out: downloading, tokenising, queues, what fails and is repeated. Reading weights is counted at 2 GB/s.

## The same for another cluster, study or price
```bash
xlt-scale plan studies/size_beyond_10b.toml --cluster hgx-h200 --nodes 8
xlt-scale plan studies/size_beyond_10b.toml --cluster a100-80g --nodes 1 --price 2 --json
xlt-scale plan studies/size_beyond_10b.toml --cluster hgx-h200 --nodes 8 --set run.engine.auto=true
xlt-scale plan studies/size_beyond_10b_families.toml --cluster hgx-h200 --nodes 2
```

A cluster of your own is described in a file (`--cluster ours.toml`): unknown keys are refused, bandwidths are per
device and direction.

```toml
name = "ours"
num_nodes = 16
devices_per_node = 4
node_bandwidth_gb_s = 300            # between devices of a node
network_bandwidth_gb_s = 25          # between nodes
host_memory_gib = 1024               # of a node
host_bandwidth_gb_s = 25             # between a device and its host's memory
price_per_device_hour = 2.0          # in any currency

[device]
name = "a100-80g"                    # h200, h100, a100-80g, a100-40g; these keys change it, or describe another card:
memory_gib = 79.1
peak_tflops = 312                    # dense bf16, of the data sheet
matmul_tflops = 265                  # what large products reach
bandwidth_tb_s = 1.82
```

This page is written by `python -m xlt_scale.scaling.grid.cost_page`.
"""


@dataclass(frozen=True)
class _Way:
    """A way to run the study."""

    title: str
    words: str
    settings: Sequence[str]


_WAYS = (
    _Way("As the file is written", "ZeRO-3 with the token budgets and the checkpointing that the file says.", ()),
    _Way(
        "With `engine.auto = true` under FSDP2",
        f"`{' '.join('--set ' + setting for setting in _FSDP2)}`: the planner fills in what the file does not say.",
        _FSDP2,
    ),
)


def cost_page(root: Path) -> str:
    """The page in Markdown.

    Args:
        root: of the checkout, which has the study.
    """
    parts = [_INTRODUCTION]
    for way in _WAYS:
        plans = {title: _plan(root, name, way.settings) for name, title in CLUSTERS.items()}
        parts += [f"## {way.title}\n{way.words}\n\n", _totals(plans), "\n", _sizes(plans), "\n"]
    families = {"H200": _plan(root, "hgx-h200", (), FAMILIES)}
    parts += [_FAMILIES_INTRODUCTION, _totals(families), "\n", _sizes(families), "\n"]
    return "".join([*parts, _END])


def _plan(root: Path, cluster: str, settings: Sequence[str], study: str = STUDY) -> StudyPlan:
    found, _ = describe_cluster(cluster, num_devices=max(NUM_DEVICES))
    return plan_study(load_study(root / study, settings), found, reads="nothing")


def _totals(plans: dict[str, StudyPlan]) -> str:
    rows = [
        "| GPUs | GPU hours | wall hours | days | disk at the fullest | wall hours in short jobs |",
        "|---|---|---|---|---|---|",
    ]
    for title, plan in plans.items():
        short = plan.cheapest_in_jobs_of(_SHORT_JOBS)
        for count in NUM_DEVICES:
            wall = plan.cheapest.wall_hours(count)
            disk = size_of(plan.cheapest.disk_bytes(count))
            total = hours(plan.cheapest.device_hours)
            last = hours(short.wall_hours(count))
            rows.append(f"| {count} {title} | {total} | {hours(wall)} | {hours(wall / 24)} | {disk} | {last} |")
    return "\n".join(rows) + "\n"


def _sizes(plans: dict[str, StudyPlan]) -> str:
    heads = ["size", "phases"]
    for title in plans:
        heads += [f"{title}: devices a run", "GiB", "GPU hours", "longest phase, h"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    first = next(iter(plans.values()))
    for number, size in enumerate(first.tried):
        cells = [f"`{size}`", str(first.num_phases[size])]
        for plan in plans.values():
            one = plan.cheapest.sizes[number]
            cells += [devices_of(one), f"{one.memory_gib:.0f}", hours(one.device_hours), hours(one.longest_hours)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(cost_page(Path(__file__).resolve().parents[3]), end="")
