"""A phase with adapters from its start to what others make of its result."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import weights
from runs import scores
from transformers import AutoModelForSequenceClassification

from xlt_scale.checkpoint.huggingface_export import ExportOptions, export_checkpoint
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.config import load_run
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.training.run import run
from xlt_scale.training.standalone import evaluation_run

RUN = """
[model]
size = "micro-small"
tokenizer = "micro"
max_length = 64
[engine]
name = "fsdp2"
[checkpoints]
every = 2
keep_every = 2
[logging]
every = 1
tensorboard = false
progress = "none"
[[phases]]
name = "pretrain"
task = "micro-mlm"
steps = 2
learning_rate = 1e-3
[[phases]]
name = "target"
parent = "pretrain"
task = "micro-nli"
steps = 6
learning_rate = 1e-2
evaluate = ["micro-nli"]
evaluate_languages = ["qen"]
evaluation_examples = 64
[phases.adapter]
rank = 4
[[phases]]
name = "child"
parent = "target"
task = "micro-valence"
steps = 1
"""

Start = Callable[..., None]


@pytest.fixture(scope="module")
def start(world: World, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    path = tmp_path_factory.mktemp("file") / "run.toml"
    path.write_text(RUN)

    def start(folder: Path, *settings: str) -> None:
        run(load_run(path, [f"output={folder}", f"data.cache={cache}", *settings]))

    return start


@pytest.fixture(scope="module", params=["full", "nf4"])
def base(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def finished(base: str, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(base) / "run"
    start(folder, f"phases.target.adapter.base={base}")
    return folder


def phase_file(folder: Path, phase: str = "target") -> dict[str, Any]:
    return json.loads((folder / "phases" / phase / "phase.json").read_text())


def test_an_interrupted_phase_ends_as_if_nothing_had_happened(
    finished: Path, base: str, start: Start, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    target = folder / "phases" / "target"
    shutil.rmtree(folder / "phases" / "child")
    shutil.rmtree(target / "result")
    for name in ("phase.json", "scores.json"):
        (target / name).unlink()
    assert [path.name for path in sorted((target / "checkpoints").iterdir())] == ["step-00000002", "step-00000004"]
    start(folder, f"phases.target.adapter.base={base}")
    assert '"step": 4' in (folder / "metrics.jsonl").read_text()
    for phase in ("target", "child"):
        assert weights(folder, phase) == weights(finished, phase)
    assert scores(folder) == scores(finished)


def test_the_phase_says_what_it_trained(finished: Path, base: str) -> None:
    training, of_parent = phase_file(finished)["training"], phase_file(finished, "pretrain")["training"]
    assert training["adapter"] == ("nf4-lora-4" if base == "nf4" else "lora-4")
    assert of_parent["adapter"] == ""
    assert training["num_parameters"] == of_parent["num_parameters"], "a size stays one, whatever is trained of it"
    assert training["num_trained_parameters"] < 0.2 * training["num_parameters"]


def test_only_what_is_adapted_differs_from_the_parent(finished: Path, base: str) -> None:
    before, after = weights(finished, "pretrain"), weights(finished, "target")
    encoder = {key for key in after if key.startswith("param/encoder.")}
    assert encoder == {key for key in before if key.startswith("param/encoder.")}
    changed = {key for key in encoder if before[key] != after[key]}
    assert changed == {
        key for key in encoder if key.endswith((".dense.weight", "query.weight", "key.weight", "value.weight"))
    }


def test_another_program_loads_the_export_and_scores_alike(finished: Path, cache: Path, tmp_path: Path) -> None:
    result = finished / "phases" / "target"
    export_checkpoint(result, tmp_path / "exported", ExportOptions(), lambda line: None)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported")
    reader = CheckpointReader(result / "result")
    query = model.roberta.encoder.layer[0].attention.self.query.weight.detach()
    stored = reader.read("param/encoder.encoder.layer.0.attention.self.query.weight", 0, query.numel())
    assert torch.equal(query.view(-1), stored)
    given = [f"data.cache={cache}", "phases.evaluate.evaluate_languages=['qen']"]
    for number, what in enumerate((result, tmp_path / "exported")):
        output = tmp_path / str(number)
        run(evaluation_run(str(what), ["micro-nli"], output, given))
        assert scores(output / "phases" / "evaluate") == scores(result)


def test_a_checkpoint_within_the_phase_is_no_parent(finished: Path, start: Start, tmp_path: Path) -> None:
    inside = finished / "phases" / "target" / "checkpoints" / "step-00000004"
    with pytest.raises(UserError) as caught:
        start(tmp_path / "run", f"phases.target.parent={inside}")
    assert "holds adapters and heads alone" in str(caught.value)
    assert "use the phase's folder" in str(caught.value)


def test_a_target_that_is_no_layer_is_refused_before_anything_is_trained(start: Start, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^phase 'target': adapter.targets has 'qeury'.*did you mean 'query'\?"):
        start(tmp_path / "run", "phases.target.adapter.targets=['qeury']")
    assert not (tmp_path / "run" / "phases").exists()
