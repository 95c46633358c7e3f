"""Save at two ranks, load at one, two and four, train on: DeepSpeed's checkpoint formats beside ours, in one run.

A small encoder with tied embeddings and an odd-sized head is trained under ZeRO-3 with two parameter groups of
different learning rate and weight decay. Its state is saved three ways: by DeepSpeed, that converted by DeepSpeed's
ds_to_universal, and by us. Each is loaded into engines of other settings and weights, and also after
`xlt-scale convert`. What counts is the loss after three more steps, against the run that was never interrupted.

    python benchmarks/checkpoint_formats.py > benchmarks/checkpoint_formats_cpu_DATE.md
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.training_state import StagedState, load_training_state
from xlt_scale.config import EngineOptions, ModelOptions, PhaseOptions
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import EngineRequest
from xlt_scale.engines.world import World, join_world
from xlt_scale.modeling.encoder import plan_encoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import FreshWeights

STEPS_BEFORE, STEPS_AFTER = 5, 3
SAVED_AT, LOADED_AT = 2, (1, 2, 4)
RATES = {"decay": 3e-3, "no_decay": 1e-2}
WEIGHT_DECAY = 0.3
SEQUENCES, LENGTH, VOCABULARY, CLASSES = 12, 9, 121, 3
EQUAL = 1e-6  # relative; fp32 sums in another order at another world size
SECONDS = 240.0
ARCHITECTURE = {
    "model_type": "xlm-roberta",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 52,
    "max_position_embeddings": 34,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "initializer_range": 0.05,
}
HEADS = (HeadSpec("mlm", "masked_language_modeling"), HeadSpec("pairs", "classification", CLASSES))
ENGINES = ("zero3", "fsdp2")


class Run:
    """An engine, and what it trains on: the same batch for any number of ranks, cut into equal parts.

    Args:
        settings: of DeepSpeed, beside what we give it.
        foreign: start as nothing that was saved: other weights, learning rates and weight decay.
        phase_options: more options of the phase.
    """

    def __init__(
        self, world: World, engine: str, folder: Path, settings: dict[str, Any], foreign: bool, **phase_options: Any
    ) -> None:
        # Several sub-groups, as a large model has.
        table = {"zero_optimization": {"stage": 3, "sub_group_size": 5000}} | settings
        file = folder / f"deepspeed-{world.rank}.json"
        file.write_text(json.dumps(table))
        options = EngineOptions(name=engine, deepspeed_config=str(file) if engine == "zero3" else "")
        model = ModelOptions(architecture=ARCHITECTURE, tokenizer="micro", max_length=32, dropout=0.0)
        plan = plan_encoder(model)
        phase = PhaseOptions(
            name="formats",
            mixture={"pairs": 1.0},
            steps=STEPS_BEFORE,
            batch_size=SEQUENCES,
            learning_rate=0.5 if foreign else 1e-3,
            weight_decay=0.9 if foreign else WEIGHT_DECAY,
            gradient_clipping=0.5,
            **phase_options,
        )
        self.world = world
        self.parameters = describe_parameters(plan, HEADS)
        self.engine: Any = build_engine(EngineRequest(world, plan, HEADS, self.parameters, options, phase, "fp32"))
        self.engine.load_parameters(FreshWeights(self.parameters, 99 if foreign else 1))
        if not foreign:
            for group in self._groups:
                group["lr"] = RATES[group["name"]]

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self.engine._optimizer.param_groups

    def loss(self, step: int) -> torch.Tensor:
        batch, num_targets = self._batch(step)
        return self.engine.forward(batch) / num_targets * self.world.size

    def train(self, first: int, last: int) -> None:
        """Steps [first, last), each group with the learning rate that it has now."""
        rates = [group["lr"] for group in self._groups]

        def restore_rates(*_: Any) -> None:
            for group, rate in zip(self._groups, rates, strict=True):
                group["lr"] = rate

        # The engine's own step gives all groups one rate.
        hook = self.engine._optimizer.register_step_pre_hook(restore_rates)
        for step in range(first, last):
            self.engine.backward(self.loss(step), is_last=True)
            self.engine.step(0.0)
        hook.remove()

    def loss_after(self, step: int) -> float:
        """The loss of the whole batch of a step that has not been trained on."""
        with torch.no_grad():
            local = self.loss(step).detach().double()
        return float(self.world.sum(local) / self.world.size)

    def settings(self) -> list[list[float]]:
        """Learning rate and weight decay of each optimiser group."""
        return [[group["lr"], group["weight_decay"]] for group in self._groups]

    def step_counters(self) -> list[int]:
        """The steps that the optimiser's states have counted, without repetitions."""
        return sorted({int(state["step"]) for state in self.engine._optimizer.state.values() if state})

    def _batch(self, step: int) -> tuple[MicroBatch, int]:
        """This rank's part, and the targets of the whole batch."""
        random = torch.Generator().manual_seed(step)
        tokens = torch.randint(5, VOCABULARY, (SEQUENCES, LENGTH), generator=random)
        share = SEQUENCES // self.world.size
        mine = slice(self.world.rank * share, (self.world.rank + 1) * share)
        head = HEADS[step % 2]
        labels = torch.randint(0, CLASSES, (SEQUENCES,), generator=random)[mine]
        places = None
        if head.name == "mlm":
            places = torch.arange(0, share * LENGTH, LENGTH)
            labels = tokens[mine, 0].clone()
            tokens[:, 0] = 4
        batch = MicroBatch(
            head=head.name,
            kind=head.kind,
            input_ids=tokens[mine].reshape(-1),
            positions=torch.arange(LENGTH).repeat(share),
            lengths=[LENGTH] * share,
            labels=labels,
            label_positions=places,
        )
        return batch, SEQUENCES


def save(world: World, folder: Path) -> dict[str, Any]:
    """Train, save in DeepSpeed's and in our format, and train on without interruption."""
    run = Run(world, "zero3", folder, {}, foreign=False)
    run.train(0, STEPS_BEFORE)
    run.engine._engine.save_checkpoint(str(folder / "plain"))
    StagedState(run.engine, run.parameters, copy=False).write(world, folder / "ours", {"step": STEPS_BEFORE})
    return finish(run)


def load(world: World, folder: Path, kind: str, engine: str) -> dict[str, Any]:
    """Load one format into an engine and train on."""
    settings: dict[str, Any] = {"checkpoint": {"load_universal": True}} if kind == "universal" else {}
    run = Run(world, engine, folder, settings, foreign=True)
    if kind in ("plain", "universal"):
        path, _ = run.engine._engine.load_checkpoint(str(folder / kind))
        assert path is not None, "DeepSpeed found nothing to load"
    else:
        reader = CheckpointReader(folder / kind)
        load_training_state(run.engine, reader, run.parameters)
        reader.close()
    return finish(run)


def finish(run: Run) -> dict[str, Any]:
    groups = run.settings()
    run.train(STEPS_BEFORE, STEPS_BEFORE + STEPS_AFTER)
    found = {"loss": run.loss_after(STEPS_BEFORE + STEPS_AFTER), "groups": groups, "steps": run.step_counters()}
    run.engine.destroy()
    return found


def work(folder: Path, jobs: list[dict[str, str]]) -> None:
    """What a rank does: its jobs one behind the other; rank 0 writes each answer down."""
    world = join_world("cpu")
    for job in jobs:
        try:
            answer = load(world, folder, **job) if job else save(world, folder)
        except Exception as error:  # that one raises is a result
            answer = {"raises": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
        if world.is_main:
            with (folder / "answers.jsonl").open("a") as file:
                print(json.dumps(job | answer), file=file)
        if "raises" in answer:
            # The ranks may no longer agree on what comes next.
            os._exit(0)


def start_ranks(world_size: int, folder: Path, jobs: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Run jobs in a process group of real ranks; their answers."""
    ranks = folder / f"ranks-{world_size}-{len(list(folder.iterdir()))}"
    ranks.mkdir()
    (folder / "answers.jsonl").write_text("")
    shared = os.environ | {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, "--work", str(folder), json.dumps(jobs)]
    processes = []
    try:
        for rank in range(world_size):
            environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with (ranks / f"output-{rank}.txt").open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                    )
                )
        deadline = time.monotonic() + SECONDS
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(1.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    if not answers:
        raise SystemExit(f"no answer at {world_size} ranks:\n{(ranks / 'output-0.txt').read_text()[-3000:]}")
    return answers


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def convert_all(folder: Path) -> None:
    """DeepSpeed's format into its universal one, and both into ours."""
    plain = folder / "plain"
    step = plain / (plain / "latest").read_text().strip()
    universal = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--num_extract_workers", "1"]
    universal += ["--num_merge_workers", "1", "--inject_missing_state", "--input_folder", str(step)]
    universal += ["--output_folder", str(folder / "universal" / f"{step.name}_universal")]
    ours = [sys.executable, "-m", "xlt_scale.cli", "convert"]
    for command in (
        universal,
        [*ours, str(plain), str(folder / "plain_converted")],
        [*ours, str(folder / "universal"), str(folder / "universal_converted")],
    ):
        done = subprocess.run(
            command, env=os.environ | {"DS_ACCELERATOR": "cpu"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


NAMES = {
    "plain": "DeepSpeed's own, loaded by DeepSpeed",
    "universal": "DeepSpeed universal, loaded by DeepSpeed",
    "ours": "ours",
    "plain_converted": "DeepSpeed's own, `xlt-scale convert`",
    "universal_converted": "DeepSpeed universal, `xlt-scale convert`",
}


def measure(folder: Path) -> Iterator[str]:
    """The lines of both tables."""
    reference = start_ranks(SAVED_AT, folder, [{}])[0]
    expected = reference["loss"]
    convert_all(folder)
    deepspeeds = [[{"kind": kind, "engine": "zero3"}] for kind in ("plain", "universal")]
    ours = [{"kind": kind, "engine": engine} for kind in list(NAMES)[2:] for engine in ENGINES]
    found: dict[tuple[str, str], dict[int, str]] = {}
    restored: dict[str, str] = {"never interrupted": _restored(reference)}
    reasons = set()
    for world_size in LOADED_AT:
        for jobs in (*deepspeeds, ours):
            for answer in start_ranks(world_size, folder, jobs):
                place = answer["kind"], answer["engine"]
                found.setdefault(place, {})[world_size] = _cell(answer, expected)
                if "raises" in answer:
                    reasons.add(f"{NAMES[answer['kind']]}, at {world_size}: {answer['raises']}")
                elif world_size == SAVED_AT:
                    restored[f"{NAMES[answer['kind']]} into {answer['engine']}"] = _restored(answer)
    heads = " | ".join(f"loaded at {size}" for size in LOADED_AT)
    yield f"| checkpoint, saved at {SAVED_AT} | into | {heads} |"
    yield "|---" * (2 + len(LOADED_AT)) + "|"
    yield f"| never interrupted | zero3 | - | {expected:.7f} | - |"
    for (kind, engine), cells in found.items():
        yield f"| {NAMES[kind]} | {engine} | {' | '.join(cells.get(size, 'no answer') for size in LOADED_AT)} |"
    if reasons:
        yield ""
        yield from (f"- {reason}" for reason in sorted(reasons))
    yield f"\nWhat was restored, at {SAVED_AT} ranks:\n"
    yield f"| | decay: rate, decay | no decay: rate, decay | step counters after {STEPS_BEFORE + STEPS_AFTER} steps |"
    yield "|---|---|---|---|"
    yield from (f"| {name} | {text} |" for name, text in restored.items())


def _cell(answer: dict[str, Any], expected: float) -> str:
    if "raises" in answer:
        return "**raises**"
    loss = answer["loss"]
    verdict = "equal" if abs(loss - expected) <= EQUAL * abs(expected) else "**wrong**"
    return f"{loss:.7f} {verdict}"


def _restored(answer: dict[str, Any]) -> str:
    groups = [f"{rate:g}, {decay:g}" for rate, decay in answer["groups"]]
    return " | ".join([*groups, ", ".join(map(str, answer["steps"]))])


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), json.loads(sys.argv[3]))
        return
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed", "transformers"))
    print("# Checkpoint formats side by side, CPU\n")
    print(
        f"Loss after {STEPS_AFTER} more steps of a state saved after {STEPS_BEFORE} steps under ZeRO-3 at {SAVED_AT} "
        "ranks (gloo).\nTwo parameter groups "
        f"(decay {WEIGHT_DECAY}, learning rate {RATES['decay']}; no decay, learning rate {RATES['no_decay']}), tied\n"
        f"embeddings, PyTorch's AdamW, fp32, several sub-groups. {versions}.\n"
        f"*equal*: within {EQUAL:g} of the run that was never interrupted, relative.\n"
    )
    print("```bash\npython benchmarks/checkpoint_formats.py\n```\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for line in measure(Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
