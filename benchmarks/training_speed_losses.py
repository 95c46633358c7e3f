"""Do 200 steps of a real training go the same way as the stock stack's? Loss curves at equal settings and data order.

A small encoder learns the micro benchmark's sentiment task in our loop and engines, and in Hugging Face's classifier
on padded batches: the same weights, batches, rates, AdamW and clipping. Without dropout the curves should be the same
up to rounding. With dropout they differ by chance: by how much, three seeds of the stock stack tell.
"""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from training_speed_cases import Case
from training_speed_lengths import pad
from training_speed_numerics import GivenWeights
from training_speed_ours import make_request, make_training, one_engine, task_spec
from training_speed_stock import MasterWeights, model_config, optimizer_groups
from transformers import AutoModelForSequenceClassification

from xlt_scale.config import DataOptions, PhaseOptions
from xlt_scale.data.plan import BatchPlan
from xlt_scale.data.prepare import DataPreparer, cache_folder, data_source, micro_world_folder
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.world import World, join_world
from xlt_scale.modeling.tokenizer import load_tokenizer
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.training.loop import train
from xlt_scale.training.schedule import learning_rate_at

TASK, DROPOUT, SMOOTHED_OVER = "micro-valence", 0.1, 20
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "warmup": 0.1, "schedule": "linear", "epsilon": 1e-8}


def measure(case: Case) -> dict[str, Any]:
    """The curves, and how far each of ours is from the stock stack's."""
    world = join_world(case.device)
    data, num_labels = _data()
    case = replace(case, optimizer="adamw")
    torch.manual_seed(case.seed)
    first = AutoModelForSequenceClassification.from_config(model_config(case, num_labels))
    run = _Runs(case, world, data, num_labels, first)
    curves = {f"stock, {precision}": run.stock(precision, 0.0, 1) for precision in ("fp32", "bf16")}
    for engine in _ENGINES:
        for precision in ("fp32", "bf16"):
            curves[f"ours/{engine}, {precision}"] = run.ours(engine, precision, 0.0)
        curves[f"ours/{engine}, bf16_stochastic"] = run.ours(engine, "bf16_stochastic", 0.0)
    for seed in _SEEDS:
        curves[f"stock, fp32, dropout, seed {seed}"] = run.stock("fp32", DROPOUT, seed)
    curves["ours/fsdp2, fp32, dropout"] = run.ours("fsdp2", "fp32", DROPOUT)
    pairs = [
        *(
            (f"ours/{engine}, {precision}", f"stock, {precision}")
            for precision in ("fp32", "bf16")
            for engine in _ENGINES
        ),
        ("stock, bf16", "stock, fp32"),
        *((f"ours/{engine}, bf16_stochastic", "stock, fp32") for engine in _ENGINES),
        *(("ours/fsdp2, fp32, dropout", f"stock, fp32, dropout, seed {seed}") for seed in _SEEDS),
        *(
            (f"stock, fp32, dropout, seed {a}", f"stock, fp32, dropout, seed {b}")
            for a, b in itertools.combinations(_SEEDS, 2)
        ),
    ]
    rows = [{"curve": a, "beside": b} | _difference(curves[a], curves[b]) for a, b in pairs]
    return {"rows": rows, "curves": curves, "smoothed_over": SMOOTHED_OVER, "task": TASK, "settings": SETTINGS}


_ENGINES, _SEEDS = ("fsdp2", "zero3"), (1, 2, 3)


def _data() -> tuple[TokenizedData, int]:
    options = DataOptions(source="files")
    spec = load_catalogue()[TASK]
    tokenizer = load_tokenizer(str(micro_world_folder(options) / "tokenizer"))
    preparer = DataPreparer(data_source(options, True), tokenizer, 64, False, cache_folder(options))
    return preparer.split(spec, "train", spec.source_language), len(spec.labels)


class _Runs:
    """The same training in one stack or the other."""

    def __init__(self, case: Case, world: World, data: TokenizedData, num_labels: int, first: nn.Module) -> None:
        self._case, self._world, self._data, self._num_labels = case, world, data, num_labels
        self._first = first
        self._spec = task_spec([str(number) for number in range(num_labels)])
        self._plan = BatchPlan(data.lengths, case.batch, key=(case.seed, "speed"))

    def ours(self, engine: str, precision: str, dropout: float) -> list[float]:
        case = replace(self._case, engine=engine, precision=precision)
        request = make_request(case, self._world, self._num_labels, dropout, **SETTINGS)
        with one_engine(request, GivenWeights(self._first)) as built:
            training, rows = make_training(built, request, case, self._data, case.steps, spec=self._spec, every=1)
            train(training)
        return [row["loss"] for row in rows.rows]

    def stock(self, precision: str, dropout: float, seed: int) -> list[float]:
        config = model_config(self._case, self._num_labels, dropout)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        model.load_state_dict(self._first.state_dict())
        model = model.to(self._world.device, dtype).train()
        masters = MasterWeights(model) if precision == "bf16" else None
        if masters:
            masters.copy_from(self._first)
        stepped: nn.Module = masters.module if masters else model
        optimizer = torch.optim.AdamW(optimizer_groups(stepped), fused=True)
        phase = PhaseOptions(name="stock", task=TASK, steps=self._case.steps, **SETTINGS)
        torch.manual_seed(seed)
        losses = []
        for step in range(self._case.steps):
            numbers = self._plan.examples(step)
            batch = pad(self._data, numbers, int(self._data.lengths[numbers].max()))
            loss = model(**{name: value.to(self._world.device) for name, value in batch.items()}).loss
            loss.backward()
            if masters:
                masters.take_gradients()
            nn.utils.clip_grad_norm_(stepped.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, self._case.steps, phase)
            optimizer.step()
            optimizer.zero_grad()
            if masters:
                masters.give_weights()
            losses.append(float(loss.detach()))
        return losses


def _difference(mine: list[float], others: list[float]) -> dict[str, float]:
    """Of the curves themselves and of their running means; losses at the end are means over the last steps."""
    a, b = np.array(mine), np.array(others)
    window = np.ones(SMOOTHED_OVER) / SMOOTHED_OVER
    smooth = np.abs(np.convolve(a, window, "valid") - np.convolve(b, window, "valid"))
    return {
        "mean": float(np.abs(a - b).mean()),
        "largest": float(np.abs(a - b).max()),
        "smoothed_largest": float(smooth.max()),
        "first_loss": float(a[0]),
        "last_loss": float(a[-SMOOTHED_OVER:].mean()),
        "last_loss_beside": float(b[-SMOOTHED_OVER:].mean()),
    }
