"""Seconds and memory of filling an engine from published weight files, beside `safetensors` reading the same bytes.

Makes folders with the names, widths and layout of XLM-R XL (fewer layers and words), several files each, and starts its
own process groups of real ranks on CPU. Every figure is from a warm page cache. In each round rank 0 alone reads all
files with `safetensors.torch.load_file`, in two ways, and then all ranks build an engine and fill it; rounds take turns
in which comes first. Memory is the high-water mark of each rank while it builds and fills.

    python benchmarks/loading.py --page benchmarks/loading_cpu_2026-11-21.md
    python benchmarks/loading.py --gigabytes 14 --small-gigabytes 14   # where memory allows: five times that
"""

import argparse
import gc
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from result_pages import replace_section
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM

from xlt_scale.config import EngineOptions, ModelOptions, PhaseOptions
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import EngineRequest
from xlt_scale.engines.world import World, join_world
from xlt_scale.modeling.encoder import plan_encoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import FirstOf, FreshWeights, PretrainedWeights

REPOSITORY = Path(__file__).parents[1]
HEADS = (HeadSpec("mlm", "masked_language_modeling"),)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NUM_FILES = 4
SECTION = "## Measured\n"
SECONDS = 900.0


@dataclass(frozen=True)
class Case:
    """One configuration to measure.

    Attributes:
        engine: 'fsdp2', 'zero3', or 'replicated': whole copies for phases that only score.
        stored: what the files hold: 'fp32' or 'bf16'.
        precision: what the engine computes in.
        suffix: of the files.
    """

    engine: str
    ranks: int
    stored: str = "fp32"
    precision: str = "fp32"
    suffix: str = "safetensors"

    @property
    def name(self) -> str:
        return f"{self.engine}, {self.ranks} rank{'s' * (self.ranks > 1)}, {self.precision}"


CASES = (
    Case("fsdp2", 1),
    Case("fsdp2", 1, stored="bf16"),
    Case("fsdp2", 1, suffix="bin"),
    Case("fsdp2", 2),
    Case("fsdp2", 2, stored="bf16"),
    Case("zero3", 1),
    Case("zero3", 1, precision="bf16"),
    Case("zero3", 2),
    Case("zero3", 2, stored="bf16"),
    Case("replicated", 1),
    Case("replicated", 1, stored="bf16", precision="bf16"),
    Case("replicated", 2),
)


def make_architecture(gigabytes: float) -> dict[str, Any]:
    """XLM-R XL with fewer layers and words, so that its fp32 weights have about so many bytes."""
    width = 2560
    vocabulary = min(250880, int(gigabytes * 20_000))
    layers = max(1, round((gigabytes * 1e9 / 4 - vocabulary * width) / (12 * width**2)))
    return {
        "model_type": "xlm-roberta-xl",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    }


def make_files(folder: Path, architecture: dict[str, Any], stored: str, suffix: str) -> None:
    """The files of a masked language model, as `save_pretrained` names them, with made-up numbers."""
    folder.mkdir(parents=True)
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**architecture))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    budget = sum(parameter.numel() for parameter in model.parameters()) / NUM_FILES
    files: list[dict[str, tuple[int, ...]]] = [{}]
    held = 0
    for name, shape in shapes.items():
        if held > budget * len(files):
            files.append({})
        files[-1][name] = shape
        held += torch.Size(shape).numel()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {}
    for number, members in enumerate(files, start=1):
        path = folder / f"{stem}-{number:05d}-of-{len(files):05d}.{suffix}"
        values = {name: torch.randn(shape).to(DTYPES[stored]) for name, shape in members.items()}
        if suffix == "safetensors":
            save_file(values, path, metadata={"format": "pt"})
        else:
            torch.save(values, path)
        places |= dict.fromkeys(members, path.name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def files_of(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])


def read_files(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The files read into memory by the library that made them, and converted where that is wanted."""
    found: dict[str, torch.Tensor] = {}
    for path in files_of(folder):
        read = torch.load(path, weights_only=True) if path.suffix == ".bin" else load_file(path, backend="pread")
        found |= {name: values.to(dtype) for name, values in read.items()}
        del read
    return found


def map_and_copy_files(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The files mapped, which is all that `load_file` does by itself, and copied to tensors of their own."""
    found: dict[str, torch.Tensor] = {}
    for path in files_of(folder):
        mapped = torch.load(path, weights_only=True, mmap=True) if path.suffix == ".bin" else load_file(path)
        found |= {name: torch.empty(values.shape, dtype=dtype).copy_(values) for name, values in mapped.items()}
    return found


class Memory:
    """Resident memory of this process, from where it is made on."""

    def __init__(self) -> None:
        gc.collect()
        # Sets the high-water mark to what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
        self.before = status("VmRSS")

    def peak_rise(self) -> int:
        return status("VmHWM") - self.before


def status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def work(world: World, job: dict[str, Any]) -> dict[str, Any]:
    """What a rank measures of one case."""
    # Whoever else is on the machine is not to suffer when memory runs out after all.
    Path("/proc/self/oom_score_adj").write_text("1000")
    case, folder = Case(**job["case"]), Path(job["files"])
    plan = plan_encoder(ModelOptions(architecture=job["architecture"], tokenizer="micro", max_length=128))
    parameters = describe_parameters(plan, HEADS)
    phase = PhaseOptions(name="bench", mixture={"text": 1.0}, steps=10, batch_size=2, learning_rate=1e-5)
    is_scored = case.engine == "replicated"
    options = EngineOptions(name="fsdp2" if is_scored else case.engine)
    request = EngineRequest(world, plan, HEADS, parameters, options, phase, case.precision, is_scored)
    wanted = DTYPES[case.precision if is_scored else "fp32"]
    held = 0

    def ours() -> dict[str, float]:
        nonlocal held
        memory = Memory()
        world.barrier()
        began = time.perf_counter()
        engine = build_engine(request)
        world.barrier()
        built, peak_of_building = time.perf_counter(), memory.peak_rise()
        used = time.process_time()
        weights = PretrainedWeights(folder, parameters, plan.prefix)
        engine.load_parameters(FirstOf([weights, FreshWeights(parameters, 1)]))
        used = time.process_time() - used
        world.barrier()
        filled = time.perf_counter()
        held = sum(stop - start for start, stop in map(engine.parameter_range, parameters))
        found = {
            "build": built - began,
            "fill": filled - built,
            "fill cpu": used,
            "peak of building": peak_of_building,
            "peak": memory.peak_rise(),
        }
        del weights
        engine.destroy()
        return found

    def theirs(name: str, read: Callable[[Path, torch.dtype], object]) -> dict[str, float]:
        world.barrier()
        began, used = time.perf_counter(), time.process_time()
        kept = read(folder, wanted) if world.is_main else None
        found = {name: time.perf_counter() - began, f"{name} cpu": time.process_time() - used}
        del kept
        world.barrier()
        return found

    rounds: list[dict[str, float]] = []
    for number in range(-1, job["rounds"]):
        measured: dict[str, float] = {}
        if number % 2:
            measured |= ours()
        measured |= theirs("read", read_files) | theirs("copy", map_and_copy_files)
        if not number % 2:
            measured |= ours()
        # The first round loads libraries and fills the page cache.
        if number >= 0:
            rounds.append(measured)
    return {"rounds": rounds, "held": held, "parameters": sum(spec.numel for spec in parameters.values())}


def start_ranks(job: dict[str, Any], num_ranks: int) -> list[dict[str, Any]]:
    """What each rank has measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        # Large tensors are new memory each time, as in a process that has just started.
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(REPOSITORY)])),
    }
    command = [sys.executable, __file__, "--work", json.dumps(job)]
    processes = []
    try:
        for rank in range(num_ranks):
            environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True))
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(0.2)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if any(process.returncode for process in processes):
        raise ChildProcessError(f"the ranks ended with {[process.returncode for process in processes]}")
    return [json.loads((Path(job["folder"]) / f"answer-{rank}.json").read_text()) for rank in range(num_ranks)]


def row(case: Case, ranks: list[dict[str, Any]]) -> str:
    """A line of the table, in Markdown."""
    turns = ranks[0]["rounds"]

    def median(key: str) -> str:
        return f"{statistics.median(turn[key] for turn in turns):.2f}"

    def ratio(kind: str) -> str:
        ratios = []
        for number, turn in enumerate(turns):
            fill = turn["fill"] if not kind else sum(rank["rounds"][number]["fill cpu"] for rank in ranks)
            ratios.append(fill / min(turn[f"read{kind}"], turn[f"copy{kind}"]))
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    stored = ranks[0]["parameters"] * DTYPES[case.stored].itemsize
    in_shard = 2 if case.engine == "replicated" and case.precision == "bf16" else 4
    shard = max(rank["held"] for rank in ranks) * in_shard
    peaks = [max(turn[key] for rank in ranks for turn in rank["rounds"]) for key in ("peak of building", "peak")]
    cells = [case.name, f"{case.stored} {case.suffix}, {stored / 1e9:.2f} GB"]
    cells += [median("read"), median("copy"), median("build"), median("fill"), ratio(""), ratio(" cpu")]
    cells += [f"{size / 2**20:,.0f}" for size in (shard, *peaks)]
    return f"| {' | '.join(cells)} |"


def not_measured(case: Case, why: str) -> str:
    return f"| {case.name} | {case.stored} {case.suffix}: not measured, {why} {'|' * (len(HEAD) - 1)}"


HEAD = (
    *("engine", "files", "read, s", "map and copy, s", "build, s", "fill, s", "fill : the faster", "in CPU time"),
    *("shard, MiB", "peak of building, MiB", "peak, MiB"),
)


def measure(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table, line by line."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"{'|---' * len(HEAD)}|"
    for case in CASES:
        if options.only and not case.name.startswith(options.only):
            continue
        gigabytes = options.gigabytes if case.engine == "fsdp2" else options.small_gigabytes
        # What is held at a time, the files in the page cache, and libraries.
        copies = {"fsdp2": 1, "zero3": 4, "replicated": case.ranks}[case.engine]
        needed = gigabytes * (copies + 1) + case.ranks * 0.4
        if psutil.virtual_memory().available < needed * 1e9:
            yield not_measured(case, f"it needs {needed:.1f} GB of free memory")
            continue
        architecture = make_architecture(gigabytes)
        files = folder / f"{case.stored}-{case.suffix}-{gigabytes:g}"
        if not files.exists():
            make_files(files, architecture, case.stored, case.suffix)
        job = {"case": asdict(case), "files": str(files), "architecture": architecture}
        try:
            yield row(case, start_ranks(job | {"folder": str(folder), "rounds": options.rounds}, case.ranks))
        except ChildProcessError as error:
            yield not_measured(case, str(error))


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        job = json.loads(sys.argv[2])
        world = join_world("cpu")
        (Path(job["folder"]) / f"answer-{world.rank}.json").write_text(json.dumps(work(world, job)))
        world.barrier()
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.2, help="of fp32 weights under FSDP2")
    parser.add_argument("--small-gigabytes", type=float, default=0.5, help="the same of engines that hold them often")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name begins so, such as 'fsdp2, 1'")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs", help="where the files are made")
    parser.add_argument("--page", type=Path, help="a page whose section 'Measured' is written anew")
    options = parser.parse_args()
    # So that whoever ends it ends its ranks, and removes what they have written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="loading-", dir=options.folder))
    lines = []
    try:
        for line in describe_and_measure(options, folder):
            print(line, flush=True)
            lines.append(line)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.page:
        replace_section(options.page, SECTION, lines)


def describe_and_measure(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The section of the page, line by line."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "safetensors", "transformers", "deepspeed"))
    before = load_average()
    yield f"{options.rounds} rounds; {libraries}.\n"
    yield from measure(options, folder)
    yield f"\nLoad average before {before}, after {load_average()}, on {os.cpu_count()} cores."


def load_average() -> str:
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


if __name__ == "__main__":
    main()
