"""Checkpoints of other programs come in whole and exact, ours go out as others read them; nothing foreign is run."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))

from launch import launch
from xlt_scale.checkpoint.foreign import dcp_writer
from xlt_scale.checkpoint.foreign.detect import detect
from xlt_scale.checkpoint.foreign.state import adamw_settings
from xlt_scale.checkpoint.manifest import Manifest, read_manifest
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.cli import app
from xlt_scale.cli_convert import Target, convert
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError

WORKER = str(Path(__file__).with_name("foreign_worker"))
DECAY = {"lr": 3e-3, "weight_decay": 0.3, "betas": [0.9, 0.999], "eps": 1e-8}
NO_DECAY = {"lr": 1e-2, "weight_decay": 0.0, "betas": [0.8, 0.95], "eps": 1e-6}
NUM_STEPS = 3


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks have saved."""
    return _launch(2, tmp_path_factory.mktemp("two"))


def _launch(world_size: int, folder: Path) -> Path:
    answers = launch(WORKER, world_size, {"folder": str(folder)}, folder / "ranks")
    (folder / "answer.json").write_text(json.dumps(answers[0]))
    return folder


def same_tensors(found: Manifest, expected: Manifest) -> bool:
    return {key: (tensor.shape, tensor.crc32) for key, tensor in found.tensors.items()} == {
        key: (tensor.shape, tensor.crc32) for key, tensor in expected.tensors.items()
    }


def tensor(folder: Path, key: str) -> torch.Tensor:
    reader = CheckpointReader(folder)
    stored = reader.manifest.tensors[key]
    values = reader.read(key, 0, stored.numel).reshape(stored.shape)
    reader.close()
    return values


@pytest.mark.parametrize("source", ["plain", "universal"])
def test_deepspeeds_states_arrive_bit_by_bit(source: str, two: Path, tmp_path: Path) -> None:
    convert(two / source, tmp_path / "converted")
    found = read_manifest(tmp_path / "converted")
    assert same_tensors(found, read_manifest(two / "ours"))
    assert found.facts["step"] == NUM_STEPS
    assert found.facts["source"]["world_size"] == 2
    optimizer = found.facts["optimizer"]
    assert (optimizer["name"], optimizer["num_steps"]) == ("adamw", NUM_STEPS)
    assert optimizer["groups"] == {"decay": DECAY, "no_decay": NO_DECAY}
    assert "encoder.embeddings.LayerNorm.weight" in optimizer["members"]["no_decay"]


def test_the_folder_of_a_step_is_as_good_as_the_one_above(two: Path, tmp_path: Path) -> None:
    convert(two / "plain" / f"global_step{NUM_STEPS}", tmp_path / "converted")
    assert same_tensors(read_manifest(tmp_path / "converted"), read_manifest(two / "ours"))


@pytest.mark.parametrize("source", ["frozen", "frozen_universal"])
def test_frozen_parameters_arrive_without_moments(source: str, two: Path, tmp_path: Path) -> None:
    convert(two / source, tmp_path / "converted")
    found = read_manifest(tmp_path / "converted")
    assert same_tensors(found, read_manifest(two / "frozen_ours"))
    assert "param/encoder.embeddings.word_embeddings.weight" in found.tensors
    assert "exp_avg/encoder.embeddings.word_embeddings.weight" not in found.tensors


def test_a_converted_state_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    answer = json.loads((_launch(1, tmp_path) / "answer.json").read_text())
    assert answer["converted"] == pytest.approx(answer["losses"], rel=1e-6)


def test_names_and_groups_can_be_changed(two: Path, tmp_path: Path) -> None:
    arguments = ["convert", str(two / "plain"), str(tmp_path / "converted"), "--prefix", "heads.pairs.=heads.new."]
    (tmp_path / "config.json").write_text('{"model_type": "xlm-roberta"}')
    arguments += ["--group", "decay=all", "--group", "no_decay=none", "--config", str(tmp_path / "config.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = read_manifest(tmp_path / "converted")
    assert found.facts["optimizer"]["groups"] == {"all": DECAY, "none": NO_DECAY}
    assert "heads.new.dense.bias" in found.facts["optimizer"]["members"]["none"]
    assert found.facts["model"] == {"model_type": "xlm-roberta"}
    key = "exp_avg/heads.{}.dense.weight"
    assert found.tensors[key.format("new")].crc32 == read_manifest(two / "ours").tensors[key.format("pairs")].crc32
    assert "group all" in done.output and f"{len(found.tensors)}" in done.output


def test_groups_that_our_engines_cut_otherwise_are_said(two: Path, tmp_path: Path) -> None:
    swapped = ["--group", "decay=no_decay", "--group", "no_decay=decay"]
    for options, is_said in (([], False), (swapped, True)):
        folder = tmp_path / f"converted-{is_said}"
        done = CliRunner().invoke(app, ["convert", str(two / "plain"), str(folder), *options])
        assert ("get the settings of the other group" in " ".join(done.output.split())) == is_said


def test_weights_alone(two: Path, tmp_path: Path) -> None:
    convert(two / "plain", tmp_path / "converted", weights_only=True)
    found = read_manifest(tmp_path / "converted")
    assert not found.holds_training_state
    assert found.tensors and all(key.startswith("param/") for key in found.tensors)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"prefix": ["roberta.=encoder."]}, "no parameter begins with 'roberta.'; they begin with encoder., heads."),
        ({"prefix": ["roberta"]}, "'roberta' is not OLD=NEW"),
        ({"prefix": ["heads.pairs.=heads.mlm."]}, "gives two parameters one name"),
        ({"group": ["decoy=decay"]}, "no optimiser group 'decoy'; did you mean 'decay'?"),
        ({"group": ["decay=decay"]}, "add --group no_decay=no_decay"),
        ({"to": Target.DCP}, "convert it to ours first"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], complaint: str, two: Path, tmp_path: Path) -> None:
    assert complaint in refusal(two / "plain", tmp_path / "converted", **options)


def refusal(source: Path, destination: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        convert(source, destination, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_nothing_that_is_there_is_replaced(two: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "exists already" in refusal(two / "plain", tmp_path)
    assert "exists already" in refusal(two / "ours", tmp_path, to=Target.DCP)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_rank_without_its_file(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "plain", tmp_path / "plain")
    step = tmp_path / "plain" / f"global_step{NUM_STEPS}"
    (step / "zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    assert "optim_states file of rank 0 is missing" in refusal(tmp_path / "plain", tmp_path / "converted")
    (step / "zero_pp_rank_1_mp_rank_00_optim_states.pt").rename(step / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert "2 model_states and 1 optim_states files" in refusal(tmp_path / "plain", tmp_path / "converted")


def test_a_file_that_ends_early(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "plain", tmp_path / "plain")
    file = tmp_path / "plain" / f"global_step{NUM_STEPS}" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    file.write_bytes(file.read_bytes()[:-5000])
    assert f"{file} cannot be read" in refusal(tmp_path / "plain", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_deepspeed_files_are_not_run(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "plain", tmp_path / "plain")
    file = tmp_path / "plain" / f"global_step{NUM_STEPS}" / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    content = torch.load(file, weights_only=True)
    torch.save(content | {"client": Evil(tmp_path / "mark")}, file)
    message = refusal(tmp_path / "plain", tmp_path / "converted")
    assert str(file) in message and "posix.mkdir" in message
    assert not (tmp_path / "mark").exists()


SETTINGS = {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"betas": None}, "lack betas"),
        ({"amsgrad": True}, "AMSGrad"),
        ({"decoupled_weight_decay": False}, "L2 decay"),
    ],
)
def test_optimisers_that_are_not_adamw(change: dict[str, Any], complaint: str) -> None:
    group = {key: value for key, value in (SETTINGS | change).items() if value is not None}
    with pytest.raises(UserError, match=complaint):
        adamw_settings(group, Path("file"))


# torch.distributed.checkpoint


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A module after a step of an AdamW with two groups."""
    torch.manual_seed(1)
    module = nn.ModuleDict({"encoder": nn.Linear(5, 3), "norm": nn.LayerNorm(3)})
    decayed = {"params": [module["encoder"].weight], "weight_decay": 0.1, "name": "decay"}
    others = [module["encoder"].bias, *module["norm"].parameters()]
    optimizer = torch.optim.AdamW(
        [decayed, {"params": others, "weight_decay": 0.0, "lr": 5e-3, "name": "no_decay"}], lr=1e-3
    )
    module["norm"](module["encoder"](torch.randn(4, 5))).square().sum().backward()
    optimizer.step()
    return module, optimizer


@pytest.fixture(params=["by number", "flattened", "torchtitan", "application"])
def dcp_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    module, optimizer = trained()
    options = StateDictOptions(flatten_optimizer_state_dict=request.param in ("flattened", "torchtitan"))
    model, optim = get_state_dict(module, optimizer, options=options)
    state: dict[str, Any] = {"model": model, "optim": optim}
    if request.param == "torchtitan":
        state = {**model, "optimizer": optim, "lr_scheduler": {"last_epoch": 1}, "train_state": {"step": 1}}
    elif request.param == "application":
        state = {"app": state}
    dcp.save(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    yield tmp_path / "dcp"


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_states_of_pytorch_arrive(dcp_folder: Path, tmp_path: Path) -> None:
    convert(dcp_folder, tmp_path / "converted")
    module, optimizer = trained()
    for name, parameter in module.named_parameters():
        assert torch.equal(tensor(tmp_path / "converted", f"param/{name}"), parameter)
        for kind in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(tensor(tmp_path / "converted", f"{kind}/{name}"), optimizer.state[parameter][kind])
    facts = read_manifest(tmp_path / "converted").facts
    assert facts["step"] == facts["optimizer"]["num_steps"] == 1
    groups = facts["optimizer"]["groups"]
    assert (groups["decay"]["lr"], groups["decay"]["weight_decay"]) == (1e-3, 0.1)
    assert (groups["no_decay"]["lr"], groups["no_decay"]["weight_decay"]) == (5e-3, 0.0)
    assert facts["optimizer"]["members"]["decay"] == ["encoder.weight"]


def test_states_that_two_ranks_wrote_arrive(two: Path, tmp_path: Path) -> None:
    convert(two / "sharded", tmp_path / "converted")
    full = torch.load(two / "full.pt", weights_only=True)
    for name, values in full["model"].items():
        assert torch.equal(tensor(tmp_path / "converted", f"param/{name}"), values)
        for kind in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(tensor(tmp_path / "converted", f"{kind}/{name}"), full["moments"][f"{name}.{kind}"])
    assert read_manifest(tmp_path / "converted").facts["source"]["world_size"] == 2


def test_a_tensor_cut_into_columns_arrives(two: Path, tmp_path: Path) -> None:
    convert(two / "columns", tmp_path / "converted")
    assert torch.equal(tensor(tmp_path / "converted", "param/columns"), torch.arange(35.0).reshape(5, 7))
    assert not read_manifest(tmp_path / "converted").holds_training_state


def ours(folder: Path) -> dict[str, torch.Tensor]:
    """A training state of ours of that module's names."""
    module, _ = trained()
    tensors = {
        f"{kind}/{name}": torch.rand(parameter.shape)
        for name, parameter in module.named_parameters()
        for kind in ("param", "exp_avg", "exp_avg_sq")
    }
    shapes = {key: tuple(values.shape) for key, values in tensors.items()}
    ranges = {key: (0, values.numel()) for key, values in tensors.items()}
    groups = {"decay": DECAY, "no_decay": NO_DECAY}
    facts = {"step": 7, "optimizer": {"name": "adamw", "num_steps": 7, "groups": groups}}
    pieces = iter([(key, values.reshape(-1)) for key, values in tensors.items()])
    write_checkpoint(World(0, 1, 0, torch.device("cpu")), folder, shapes, ranges, pieces, facts)
    return tensors


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.filterwarnings("ignore:Found a non-scalar tensor")
def test_pytorch_loads_what_we_write(tmp_path: Path) -> None:
    tensors = ours(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "dcp", to=Target.DCP)
    module, optimizer = trained()
    model, optim = get_state_dict(module, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
    wanted = {"model": model, "optim": optim}
    dcp.load(wanted, checkpoint_id=tmp_path / "dcp", no_dist=True)
    for name, values in wanted["model"].items():
        assert torch.equal(values, tensors[f"param/{name}"])
        for kind in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(wanted["optim"][f"state.{name}.{kind}"], tensors[f"{kind}/{name}"])
        assert wanted["optim"][f"state.{name}.step"] == 7
    assert wanted["optim"]["param_groups.encoder.weight.weight_decay"] == 0.3
    assert wanted["optim"]["param_groups.norm.weight.weight_decay"] == 0.0
    assert wanted["optim"]["param_groups.norm.weight.betas"] == (0.8, 0.95)


def test_writing_for_pytorch_holds_one_block_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours(tmp_path / "ours")
    monkeypatch.setattr(dcp_writer, "PIECE", 10)
    lengths = []
    read = CheckpointReader.read

    def watched(self: CheckpointReader, key: str, start: int, stop: int) -> torch.Tensor:
        lengths.append(stop - start)
        return read(self, key, start, stop)

    monkeypatch.setattr(CheckpointReader, "read", watched)
    convert(tmp_path / "ours", tmp_path / "dcp", to=Target.DCP)
    assert max(lengths) == 10
    convert(tmp_path / "dcp", tmp_path / "again")
    assert same_tensors(read_manifest(tmp_path / "again"), read_manifest(tmp_path / "ours"))
    assert read_manifest(tmp_path / "again").facts["optimizer"]["groups"] == {"decay": DECAY, "no_decay": NO_DECAY}


def test_a_damaged_checkpoint_is_not_written_for_pytorch(tmp_path: Path) -> None:
    ours(tmp_path / "ours")
    file = tmp_path / "ours" / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert f"{file} cannot be read" in refusal(tmp_path / "ours", tmp_path / "dcp", to=Target.DCP)
    assert not (tmp_path / "dcp").exists()


@pytest.fixture
def small_dcp(tmp_path: Path) -> Path:
    ours(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "dcp", to=Target.DCP)
    return tmp_path / "dcp"


def test_metadata_are_not_run(small_dcp: Path, tmp_path: Path) -> None:
    (small_dcp / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    message = refusal(small_dcp, tmp_path / "converted")
    assert f"{small_dcp / '.metadata'} names posix.mkdir" in message
    assert not (tmp_path / "mark").exists()


def test_values_are_not_run(small_dcp: Path, tmp_path: Path) -> None:
    metadata = pickle.loads((small_dcp / ".metadata").read_bytes())
    place = next(place for index, place in metadata.storage_data.items() if index.fqn.endswith("encoder.weight.lr"))
    torch.save(Evil(tmp_path / "mark"), small_dcp / "evil.distcp")
    place.relative_path, place.offset = "evil.distcp", 0
    place.length = (small_dcp / "evil.distcp").stat().st_size
    (small_dcp / ".metadata").write_bytes(pickle.dumps(metadata))
    assert "evil.distcp cannot be read" in refusal(small_dcp, tmp_path / "converted")
    assert not (tmp_path / "mark").exists()


def test_nothing_outside_of_the_folder_is_read(small_dcp: Path, tmp_path: Path) -> None:
    metadata = pickle.loads((small_dcp / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = f"../{small_dcp.name}/{place.relative_path}"
    (small_dcp / ".metadata").write_bytes(pickle.dumps(metadata))
    assert "is said to lie outside" in refusal(small_dcp, tmp_path / "converted")


def test_a_chunk_that_is_missing(small_dcp: Path, tmp_path: Path) -> None:
    metadata = pickle.loads((small_dcp / ".metadata").read_bytes())
    metadata.state_dict_metadata["model.encoder.weight"].chunks.clear()
    (small_dcp / ".metadata").write_bytes(pickle.dumps(metadata))
    message = refusal(small_dcp, tmp_path / "converted")
    assert "chunks of model.encoder.weight do not tile its shape [3, 5]" in message
    assert not (tmp_path / "converted").exists()


def test_formats_are_told_apart(two: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert detect(tmp_path) == "huggingface"
    found = {name: detect(two / name) for name in ("ours", "plain", "universal", "sharded")}
    assert found == {
        "ours": "ours",
        "plain": "deepspeed_zero3",
        "universal": "deepspeed_universal",
        "sharded": "distributed_checkpoint",
    }
    assert "is no checkpoint of" in refusal(two / "ranks", tmp_path / "converted")
    assert "no such folder" in refusal(tmp_path / "missing", tmp_path / "converted")
