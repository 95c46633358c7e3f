"""Memory and speed of saving and loading training states, beside a plain copy of the same bytes in the same run.

Starts its own process group of real ranks on CPU. The states are filled with made-up numbers, so that a state with
moments is there without a training step and its gradients. Every figure of speed is of all ranks together, from the
moment the first begins until the last is done, content on the disk (fsync) and checksums compared included; before
anything is read the kernel's cache of the files is dropped. The rounds take turns in which of the two comes first.

    python benchmarks/checkpoint_size_and_speed.py --parameters 1e9 --engine fsdp2
    python benchmarks/checkpoint_size_and_speed.py --parameters 3e8 --engine fsdp2 --asynchronous
"""

import argparse
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from xlt_scale.checkpoint.background import BackgroundWriter
from xlt_scale.checkpoint.training_state import StagedState, load_training_state, open_together
from xlt_scale.config import EngineOptions, ModelOptions, PhaseOptions
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import EngineRequest
from xlt_scale.engines.world import World, join_world
from xlt_scale.modeling.encoder import plan_encoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters

REPOSITORY = Path(__file__).parents[1]
HEADS = (HeadSpec("pairs", "classification", 3),)
VOCABULARY = 250002
SHARE_OF_EMBEDDING = 0.6
PIECE = 1 << 24
SECONDS = 1500.0


def make_architecture(num_parameters: float) -> dict[str, Any]:
    """An encoder of about so many parameters with XLM-R's vocabulary: one tensor that is wide, as real ones have."""
    hidden = max(64, 64 * round(SHARE_OF_EMBEDDING * num_parameters / VOCABULARY / 64))
    layers = max(1, round((num_parameters - VOCABULARY * hidden) / (12 * hidden**2)))
    return {
        "model_type": "xlm-roberta",
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": 34,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    }


class MadeUp:
    """A `StateSource` whose element depends on the seed, the key's length and the place alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def has(self, key: str) -> bool:
        return True

    def read(self, key: str, start: int, stop: int) -> torch.Tensor:
        shift = self._seed * 7919 + len(key)
        return torch.arange(start + shift, stop + shift).remainder_(1021).to(torch.float32).add_(1).mul_(4e-5)


class Memory:
    """Resident memory of this process, in bytes, from where it is made on."""

    def __init__(self) -> None:
        gc.collect()
        # Sets the high-water mark to what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
        self.before = status("VmRSS")
        self.anonymous_before = status("RssAnon")

    def peak_rise(self) -> int:
        return status("VmHWM") - self.before


def status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


class Bench:
    """One rank: an engine with a made-up state, and the folder to save it in."""

    def __init__(self, world: World, job: dict[str, Any]) -> None:
        self.world, self.folder = world, Path(job["folder"])
        plan = plan_encoder(
            ModelOptions(architecture=make_architecture(job["parameters"]), tokenizer="micro", max_length=32)
        )
        self.parameters = describe_parameters(plan, HEADS)
        phase = PhaseOptions(name="bench", mixture={"pairs": 1.0}, steps=10, batch_size=2, learning_rate=1e-5)
        options = EngineOptions(name=job["engine"])
        self.engine = build_engine(EngineRequest(world, plan, HEADS, self.parameters, options, phase, "fp32"))
        self.fill(1)

    def fill(self, seed: int) -> None:
        self.engine.load_states(MadeUp(seed), self.engine.group_settings(), seed)

    @property
    def num_bytes(self) -> int:
        """What this rank writes."""
        ranges = StagedState(self.engine, self.parameters, copy=False).ranges
        return 4 * sum(stop - start for start, stop in ranges.values())

    def save(self) -> None:
        StagedState(self.engine, self.parameters, copy=False).write(self.world, self.folder / "state", {})

    def load(self) -> None:
        reader = open_together(self.world, self.folder / "state")
        load_training_state(self.engine, reader, self.parameters)
        reader.close()

    def train(self, num_steps: int) -> None:
        for _ in range(num_steps):
            tokens = torch.arange(5, 21)
            batch = MicroBatch(
                head="pairs",
                kind=HEADS[0].kind,
                input_ids=tokens,
                positions=torch.arange(8).repeat(2),
                lengths=[8, 8],
                labels=torch.tensor([0, 2]),
                label_positions=None,
            )
            self.engine.backward(self.engine.forward(batch) / 2, is_last=True)
            self.engine.step(1e-5)

    @property
    def own_file(self) -> Path:
        return self.folder / "state" / f"rank-{self.world.rank:05d}.safetensors"

    def plain_write(self) -> None:
        """As many bytes as the rank's file has, from memory."""
        self._copy(None)

    def plain_copy(self) -> None:
        self._copy(self.own_file)

    def _copy(self, source: Path | None) -> None:
        buffer, size, position = bytearray(PIECE), self.own_file.stat().st_size, 0
        origin = os.open(source, os.O_RDONLY) if source else -1
        target = os.open(self._copied, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        while position < size:
            count = min(PIECE, size - position)
            if source:
                count = os.preadv(origin, [buffer], position)
            position += os.pwrite(target, memoryview(buffer)[:count], position)
        os.fsync(target)
        os.close(target)
        if source:
            os.close(origin)

    def plain_read(self) -> None:
        buffer, position = bytearray(PIECE), 0
        file = os.open(self.own_file, os.O_RDONLY)
        while count := os.preadv(file, [buffer], position):
            position += count
        os.close(file)

    @property
    def _copied(self) -> Path:
        return self.folder / f"copy-{self.world.rank}"

    def drop_cache(self) -> None:
        self.world.barrier()
        file = os.open(self.own_file, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)

    def remove_copy(self) -> None:
        self._copied.unlink(missing_ok=True)

    def timed(self, action: Callable[[], None]) -> dict[str, float]:
        """Seconds until the last rank is done, and this rank's peak rise."""
        self.world.barrier()
        memory = Memory()
        began = time.perf_counter()
        action()
        peak = memory.peak_rise()
        self.world.barrier()
        return {"seconds": time.perf_counter() - began, "peak": peak, "before": memory.before}


def work(world: World, job: dict[str, Any]) -> dict[str, Any]:
    """What a rank measures."""
    # Whoever else is on the machine is not to suffer when memory runs out after all.
    Path("/proc/self/oom_score_adj").write_text("1000")
    started = Memory().before
    bench = Bench(world, job)
    found: dict[str, Any] = {"shard": bench.num_bytes, "libraries": started, "rounds": []}
    found["anonymous"] = status("RssAnon")
    found["parameters"] = sum(spec.numel for spec in bench.parameters.values())
    found["largest"] = max(spec.numel for spec in bench.parameters.values())
    bench.save()
    for number in range(job["rounds"]):
        writes = {"save": bench.save, "plain write": bench.plain_write, "plain copy": bench.plain_copy}
        reads = {"load": bench.load, "plain read": bench.plain_read}
        measured = {}
        for name, action in _turn(writes, number):
            bench.drop_cache()
            measured[name] = bench.timed(action)
            bench.remove_copy()
        bench.fill(2)
        for name, action in _turn(reads, number):
            bench.drop_cache()
            measured[name] = bench.timed(action)
        found["rounds"].append(measured)
        if world.is_main:
            print(json.dumps(measured), flush=True)
    if job["asynchronous"]:
        found["asynchronous"] = measure_asynchronous(bench)
    return found


def _turn(actions: dict[str, Callable[[], None]], number: int) -> Iterator[tuple[str, Callable[[], None]]]:
    yield from reversed(actions.items()) if number % 2 else actions.items()


def measure_asynchronous(bench: Bench) -> dict[str, float]:
    """Two steps, and two steps while a state is written."""
    background = BackgroundWriter(bench.world)
    bench.train(2)  # what the first step allocates for good
    alone = bench.timed(lambda: bench.train(2))
    stalls = []

    def save_and_train() -> None:
        began = time.perf_counter()
        staged = StagedState(bench.engine, bench.parameters, copy=True)

        def write(world: World) -> None:
            staged.write(world, bench.folder / "state", {})

        background.start(write)
        stalls.append(time.perf_counter() - began)
        bench.train(2)
        outcome = background.wait()
        assert outcome is not None and not outcome.problem, outcome

    together = bench.timed(save_and_train)
    return {
        "alone": alone["peak"],
        "together": together["peak"],
        "stall": stalls[0],
        "seconds alone": alone["seconds"],
        "seconds together": together["seconds"],
        "left": status("VmRSS") - together["before"],
    }


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
        # Freed memory goes back to the system at once, so that what is measured is what is held.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(REPOSITORY)])),
    }
    command = [sys.executable, __file__, "--work", json.dumps(job)]
    folder = Path(job["folder"])
    processes = []
    try:
        for rank in range(num_ranks):
            environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # Its output is shown as it comes.
            processes.append(
                subprocess.Popen(command, env=environment, stdout=sys.stderr, stderr=None, start_new_session=True)
            )
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
        raise SystemExit(f"the ranks ended with {[process.returncode for process in processes]}")
    return [json.loads((folder / f"answer-{rank}.json").read_text()) for rank in range(num_ranks)]


def report(job: dict[str, Any], ranks: list[dict[str, Any]]) -> Iterator[str]:
    """The tables of one run, in Markdown."""
    total = sum(rank["shard"] for rank in ranks)
    yield (
        f"{job['engine']}, {ranks[0]['parameters'] / 1e6:.0f} M parameters (largest tensor "
        f"{ranks[0]['largest'] / 1e6:.0f} M), {len(ranks)} ranks, state of {total / 1e9:.2f} GB\n"
    )
    rises = {name: [max(turn[name]["peak"] for turn in rank["rounds"]) for rank in ranks] for name in ("save", "load")}
    table: list[tuple[str, list[float]]] = [
        ("shard (masters and moments)", [rank["shard"] for rank in ranks]),
        ("resident before the engine is built", [rank["libraries"] for rank in ranks]),
        ("resident with the engine and its state", [rank["rounds"][0]["save"]["before"] for rank in ranks]),
        ("peak rise, synchronous save", rises["save"]),
        ("peak rise, load into an engine that holds another state", rises["load"]),
    ]
    if job["asynchronous"]:
        found = [rank["asynchronous"] for rank in ranks]
        table += [
            ("peak rise, two steps alone", [one["alone"] for one in found]),
            ("peak rise, two steps and an asynchronous save", [one["together"] for one in found]),
            ("... more than the steps alone", [one["together"] - one["alone"] for one in found]),
            ("... still held afterwards", [one["left"] for one in found]),
        ]
    yield f"| MiB | {' | '.join(f'rank {number}' for number in range(len(ranks)))} | all |"
    yield "|---" * (len(ranks) + 2) + "|"
    for name, values in table:
        yield f"| {name} | {' | '.join(f'{value / 2**20:,.0f}' for value in [*values, sum(values)])} |"
    if job["asynchronous"]:
        one = found[0]
        yield (
            f"\nThe copy stalls training for {one['stall']:.2f} s; two steps take {one['seconds alone']:.1f} s, "
            f"with the save to its end {one['seconds together']:.1f} s."
        )
    turns = ranks[0]["rounds"]
    yield f"\n| GB/s | {' | '.join(f'round {number + 1}' for number in range(len(turns)))} | all rounds |"
    yield "|---" * (len(turns) + 2) + "|"
    for name in ("save", "plain write", "plain copy", "load", "plain read"):
        seconds = [turn[name]["seconds"] for turn in turns]
        rates = [total / 1e9 / one for one in seconds] + [len(seconds) * total / 1e9 / sum(seconds)]
        yield f"| {name} | {' | '.join(f'{rate:.2f}' for rate in rates)} |"
    for ours, plain in (("save", "plain copy"), ("save", "plain write"), ("load", "plain read")):
        ratios = [turn[plain]["seconds"] / turn[ours]["seconds"] for turn in turns]
        ratios.append(sum(turn[plain]["seconds"] for turn in turns) / sum(turn[ours]["seconds"] for turn in turns))
        yield f"| {ours} : {plain} | {' | '.join(f'{ratio:.0%}' for ratio in ratios)} |"


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        job = json.loads(sys.argv[2])
        world = join_world("cpu")
        answer = json.dumps(work(world, job))
        (Path(job["folder"]) / f"answer-{world.rank}.json").write_text(answer)
        world.barrier()
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--parameters", type=float, default=1e9, help="about how many the encoder has")
    parser.add_argument("--engine", choices=("fsdp2", "zero3"), default="fsdp2")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--asynchronous", action="store_true", help="measure saving while training goes on as well")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs", help="on the file system to measure")
    options = parser.parse_args()
    per_parameter = (40 if options.asynchronous else 16) + (12 if options.engine == "zero3" else 0)
    needed = options.parameters * per_parameter + options.ranks * 5e8
    if psutil.virtual_memory().available < needed:
        raise SystemExit(f"needs {needed / 1e9:.1f} GB of free memory: wait, or take fewer parameters")
    # So that whoever ends it ends its ranks, and removes what they have written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-speed-", dir=options.folder))
    try:
        job = vars(options) | {"folder": str(folder)}
        ranks = start_ranks(job, options.ranks)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed"))
    print(f"`{' '.join(['python', 'benchmarks/' + Path(__file__).name, *sys.argv[1:]])}` ({versions})\n")
    print("\n".join(report(job, ranks)))


if __name__ == "__main__":
    main()
