"""Host memory and seconds of one rank that builds and fills its shard of a model of 14 to 27 billion parameters.

Each case is one process that takes the place of one rank of many: the process group is PyTorch's stand-in, whose
collectives do nothing, which building and filling an FSDP2 engine never miss. The model is built on the meta device and
filled by the product's own path, from a folder of published weights (`PretrainedWeights`) or with fresh draws
(`FreshWeights`). The folder has the shapes and the size of the real one in bf16, several files; they are sparse, with
values in 64 blocks of each matrix, by which a rank tells that it has read its own rows. The rest reads as zeros, faster
than from any disk.

    python benchmarks/large_shapes.py --page benchmarks/large_shapes_cpu_2026-11-22.md
    python benchmarks/large_shapes.py --only "qwen3-14b, 15 of 16"
"""

import argparse
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from result_pages import replace_section
from torch.testing._internal.distributed.fake_pg import FakeStore

from xlt_scale.config import EngineOptions, ModelOptions, PhaseOptions
from xlt_scale.engines.fsdp2 import Fsdp2Engine
from xlt_scale.engines.interface import EngineRequest
from xlt_scale.engines.world import World
from xlt_scale.modeling.encoder import EncoderPlan, plan_encoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import ParameterSpec, describe_parameters
from xlt_scale.modeling.weights import FirstOf, FreshWeights, PretrainedWeights
from xlt_scale.planning.known_hardware import find_cluster
from xlt_scale.planning.layouts import part_of
from xlt_scale.planning.memory import predict_memory
from xlt_scale.planning.shapes import shape_of
from xlt_scale.planning.workload import Layout, Lengths, Workload
from xlt_scale.sizes import ModelSize, find_size

REPOSITORY = Path(__file__).parents[1]
HEADS = (HeadSpec("pairs", "classification", num_labels=3),)
SECTION = "## Measured\n"
FILE_BYTES = 5_000_000_000
NUM_MARKS = 64
MARK = 4096
SECONDS = 1800.0


@dataclass(frozen=True)
class Case:
    """One rank of one model.

    Attributes:
        source: 'files' or 'fresh'.
    """

    size: str
    rank: int
    ranks: int
    source: str = "files"

    @property
    def name(self) -> str:
        return f"{self.size}, {self.rank} of {self.ranks}, {self.source}"


CASES = (
    *(Case("gemma3-27b", rank, 64) for rank in (0, 31, 63)),
    Case("gemma3-27b", 15, 16),
    Case("gemma3-27b", 63, 64, "fresh"),
    *(Case("planned-20b", rank, 64) for rank in (0, 63)),
    Case("planned-20b", 15, 16),
    Case("planned-20b", 63, 64, "fresh"),
    *(Case("qwen3-14b", rank, 16) for rank in (0, 15)),
    Case("qwen3-14b", 7, 8),
)


def marks(shape: tuple[int, ...]) -> list[int]:
    """First elements of the blocks of a matrix that hold values."""
    numel = int(np.prod(shape))
    if len(shape) < 2 or numel < 2 * NUM_MARKS * MARK:
        return []
    return [number * (numel // NUM_MARKS) for number in range(NUM_MARKS)]


def values_of_mark(name: str, start: int) -> torch.Tensor:
    """bf16 [MARK], by the tensor's name and the block's place."""
    seed = int.from_bytes(f"{name}:{start}".encode()[-8:], "little")
    drawn = np.random.default_rng([seed, start]).standard_normal(MARK, dtype=np.float32)
    return torch.from_numpy(drawn).bfloat16()


def make_folder(folder: Path, specs: Mapping[str, ParameterSpec]) -> int:
    """A folder of published weights of the encoder in bf16, sparse; its size in bytes."""
    folder.mkdir(parents=True)
    shapes = {name.removeprefix("encoder."): spec.shape for name, spec in specs.items() if name.startswith("encoder.")}
    files: list[dict[str, tuple[int, ...]]] = [{}]
    filled = total = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        if filled and filled + size > FILE_BYTES:
            files.append({})
            filled = 0
        files[-1][name] = shape
        filled, total = filled + size, total + size
    places = {}
    for number, members in enumerate(files):
        file = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        _write_sparse(folder / file, members)
        places |= dict.fromkeys(members, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return total


def _write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
        for name, shape in shapes.items():
            begin = 8 + len(text) + header[name]["data_offsets"][0]
            for start in marks(shape):
                values = values_of_mark(name, start).view(torch.int16).numpy()
                os.pwrite(file.fileno(), values.tobytes(), begin + 2 * start)


def predicted_bytes(size: ModelSize, ranks: int) -> int:
    """What the planner says of parameters on each of so many devices, 8 to a node: fp32 masters, divided."""
    cluster = part_of(replace(find_cluster("hgx-h200"), num_nodes=64), ranks)
    workload = Workload(shape_of(size), Lengths(43.0, 2300.0, 128), 4 * ranks)
    layout = Layout("fsdp2", ranks, cluster.num_nodes, keep_gathered=False)
    return predict_memory(workload, layout, cluster).parameters


def resident(key: str) -> int:
    """Bytes of this process: 'VmRSS', or 'VmHWM' for the most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def request_of(world: World, plan: EncoderPlan, specs: Mapping[str, ParameterSpec]) -> EngineRequest:
    phase = PhaseOptions(name="bench", mixture={"pairs": 1.0}, steps=10, batch_size=64, learning_rate=1e-5)
    return EngineRequest(world, plan, HEADS, dict(specs), EngineOptions(name="fsdp2"), phase, "bf16", False)


def fill_one_rank(architecture: dict[str, Any], rank: int, ranks: int, folder: str) -> dict[str, float]:
    """What one rank takes to build its engine and fill it: bytes above what the process had before, and seconds.

    Args:
        folder: of published weights; '' = fresh draws.
    """
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    world = World(rank, ranks, rank % 8, torch.device("cpu"))
    small = plan_encoder(ModelOptions(size="micro-tiny", tokenizer="micro", max_length=64))
    # A small engine first: what is measured is not the loading of libraries.
    Fsdp2Engine(request_of(world, small, describe_parameters(small, HEADS))).destroy()
    plan = plan_encoder(ModelOptions(architecture=architecture, tokenizer="micro", max_length=128))
    specs = describe_parameters(plan, HEADS)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident now
    before, began = resident("VmRSS"), time.perf_counter()
    engine = Fsdp2Engine(request_of(world, plan, specs))
    built, peak_of_building = time.perf_counter(), resident("VmHWM") - before
    fresh = FreshWeights(specs, seed=1)
    engine.load_parameters(FirstOf([PretrainedWeights(Path(folder), specs, plan.prefix), fresh]) if folder else fresh)
    filled = time.perf_counter()
    ranges = {name: engine.parameter_range(name) for name in specs}
    found = {
        "shard": sum(stop - start for start, stop in ranges.values()),
        "parameters": sum(spec.numel for spec in specs.values()),
        "peak of building": peak_of_building,
        "peak": resident("VmHWM") - before,
        "held": resident("VmRSS") - before,
        "build": built - began,
        "fill": filled - built,
    }
    states = dict(engine.read_states(with_moments=False))
    checked = wrong = 0
    for name, (first, stop) in ranges.items():
        for start in marks(specs[name].shape) if folder and name.startswith("encoder.") else []:
            if first <= start and start + MARK <= stop:
                mine = states[f"param/{name}"][start - first : start - first + MARK]
                checked += 1
                wrong += not torch.equal(mine, values_of_mark(name.removeprefix("encoder."), start).float())
    dist.destroy_process_group()
    return found | {"checked": checked, "wrong": wrong}


def row(case: Case, found: Mapping[str, float], stored: int) -> str:
    """A line of the table, in Markdown."""
    predicted = predicted_bytes(find_size(case.size), case.ranks)
    source = f"{stored / 1e9:.1f} GB of files" if case.source == "files" else "fresh draws"
    cells = [case.size, f"{case.rank} of {case.ranks}", source, f"{found['shard'] / 1e6:,.1f}"]
    cells += [f"{size / 2**20:,.0f}" for size in (predicted, found["held"], found["peak"], found["peak of building"])]
    cells += [f"{found['peak'] / predicted - 1:+.1%}", f"{found['build']:.1f}", f"{found['fill']:.1f}"]
    cells.append(f"{found['checked']:.0f}, {found['wrong']:.0f} wrong" if found["checked"] else "")
    return f"| {' | '.join(cells)} |"


HEAD = (
    *("model", "rank", "filled from", "parameters in the shard, M", "predicted, MiB", "held, MiB", "peak, MiB"),
    *("peak of building, MiB", "peak / predicted - 1", "build, s", "fill, s", "blocks compared"),
)


def measure(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table, line by line."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"{'|---' * len(HEAD)}|"
    stored: dict[str, int] = {}
    for case in (case for case in CASES if case.name.startswith(options.only)):
        needed = 1.1 * predicted_bytes(find_size(case.size), case.ranks) + 1e9
        if needed > min(psutil.virtual_memory().available, 1e9 * options.most_gigabytes):
            yield f"| {case.name}: not measured, it may need {needed / 1e9:.1f} GB of memory {'|' * len(HEAD)}"
            continue
        architecture = find_size(case.size).architecture()
        if case.size not in stored:
            plan = plan_encoder(ModelOptions(architecture=architecture, tokenizer="micro", max_length=128))
            stored[case.size] = make_folder(folder / case.size, describe_parameters(plan, HEADS))
        files = folder / case.size if case.source == "files" else None
        yield row(case, run_alone(architecture, case.rank, case.ranks, files, folder), stored[case.size])


def run_alone(
    architecture: dict[str, Any], rank: int, ranks: int, files: Path | None, folder: Path
) -> dict[str, float]:
    """`fill_one_rank` in a process of its own.

    Args:
        folder: where its answer may lie for a while.
    """
    job = {"architecture": architecture, "rank": rank, "ranks": ranks, "files": str(files or "")}
    answer = folder / "answer.json"
    # Large tensors are new memory each time, and go back when they are freed.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(REPOSITORY)]))
    command = [sys.executable, __file__, "--work", json.dumps(job), str(answer)]
    subprocess.run(command, env=environment, stdout=sys.stderr, timeout=SECONDS, check=True)
    found: dict[str, float] = json.loads(answer.read_text())
    return found


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        job = json.loads(sys.argv[2])
        # Whoever else is on the machine is not to suffer when memory runs out after all.
        Path("/proc/self/oom_score_adj").write_text("1000")
        found = fill_one_rank(job["architecture"], job["rank"], job["ranks"], job["files"])
        Path(sys.argv[3]).write_text(json.dumps(found))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="cases whose name begins so, such as 'gemma3-27b, 63'")
    parser.add_argument("--most-gigabytes", type=float, default=10.0, help="memory that a case may need")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs", help="where the files are made")
    parser.add_argument("--page", type=Path, help="a page whose section 'Measured' is written anew")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="large-shapes-", dir=options.folder))
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    lines = [f"{libraries}; {os.cpu_count()} cores, each case in a process of its own with one thread.\n"]
    try:
        for line in measure(options, folder):
            print(line, flush=True)
            lines.append(line)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.page:
        replace_section(options.page, SECTION, lines)


if __name__ == "__main__":
    main()
