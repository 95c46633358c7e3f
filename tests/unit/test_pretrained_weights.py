"""Published weight files: every encoder parameter arrives as it was stored, or the start fails with its name."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import MLM, PAIRS, build, plan_for
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel

from xlt_scale.errors import UserError
from xlt_scale.modeling.encoder import EncoderPlan
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.pretrained import content_of_weight_files, pretrained_folder
from xlt_scale.modeling.weights import PretrainedWeights

Save = Callable[[PreTrainedModel, Path], None]


def read_all(folder: Path, plan: EncoderPlan) -> dict[str, Tensor]:
    """Everything that the files give to a model with a masked-language-modelling and a classification head."""
    specs = describe_parameters(plan, [MLM, PAIRS])
    weights = PretrainedWeights(folder, specs, plan.prefix)
    return {
        name: weights.read(name, 0, spec.numel).view(spec.shape) for name, spec in specs.items() if weights.has(name)
    }


def encoder_part(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "encoder."
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def bare_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The encoder's parameters, without the pooling layer that we do not use."""
    base = getattr(model, model.base_model_prefix, model)
    return {name: p.detach() for name, p in base.named_parameters() if not name.startswith("pooler")}


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value.float()), name


def save_safetensors(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    assert (folder / "model.safetensors").is_file()


def save_sharded(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size="50KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert len(list(folder.glob("*.safetensors"))) > 2


def save_bin(model: PreTrainedModel, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def save_old_bin(model: PreTrainedModel, folder: Path) -> None:
    """As PyTorch before 1.6 did."""
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def save_sharded_bin(model: PreTrainedModel, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    state = model.state_dict()
    files = {name: f"pytorch_model-{number % 2 + 1:05d}-of-00002.bin" for number, name in enumerate(state)}
    for file in set(files.values()):
        torch.save({name: value for name, value in state.items() if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))


@pytest.mark.parametrize("save", [save_safetensors, save_sharded, save_bin, save_old_bin, save_sharded_bin])
@pytest.mark.parametrize("automatic_class", [AutoModel, AutoModelForMaskedLM], ids=["bare", "with_head"])
def test_every_encoder_parameter_is_that_of_the_files(save: Save, automatic_class: type, tmp_path: Path) -> None:
    plan = plan_for("xlm-roberta")
    source = automatic_class.from_config(plan.config)
    save(source, tmp_path)
    assert_equal(encoder_part(read_all(tmp_path, plan)), bare_state(source))


@pytest.mark.parametrize("family", ["xlm-roberta-xl", "modernbert", "bert", "xlnet"])
def test_other_families_arrive_too(family: str, tmp_path: Path) -> None:
    plan = plan_for(family)
    source = AutoModel.from_config(plan.config)
    save_safetensors(source, tmp_path)
    assert_equal(encoder_part(read_all(tmp_path, plan)), bare_state(source))


def test_of_a_model_that_also_decodes_the_encoder_arrives(tmp_path: Path) -> None:
    plan = plan_for("t5")
    config = plan.config
    config.is_encoder_decoder = True
    source = AutoModel.from_config(config)
    save_safetensors(source, tmp_path)
    expected = {name: p.detach() for name, p in source.named_parameters() if not name.startswith("decoder")}
    assert_equal(encoder_part(read_all(tmp_path, plan)), expected)


@pytest.mark.parametrize(
    ("family", "head"), [("xlm-roberta", "lm_head"), ("xlm-roberta-xl", "lm_head"), ("bert", "cls")]
)
def test_a_masked_lm_head_in_the_files_arrives(family: str, head: str, tmp_path: Path) -> None:
    plan = plan_for(family)
    source = AutoModelForMaskedLM.from_config(plan.config)
    for parameter in source.get_submodule(head).parameters():
        torch.nn.init.normal_(parameter)  # norms and biases are constant in a new model
    save_safetensors(source, tmp_path)
    found = {name: value for name, value in read_all(tmp_path, plan).items() if name.startswith("heads.")}
    bert = source.cls.predictions if head == "cls" else None
    dense, norm = (
        (bert.transform.dense, bert.transform.LayerNorm) if bert else (source.lm_head.dense, source.lm_head.layer_norm)
    )
    expected = {
        "heads.mlm.dense.weight": dense.weight,
        "heads.mlm.dense.bias": dense.bias,
        "heads.mlm.layer_norm.weight": norm.weight,
        "heads.mlm.layer_norm.bias": norm.bias,
        "heads.mlm.decoder.bias": bert.bias if bert else source.lm_head.bias,
    }
    assert_equal(found, expected)


def test_the_whole_masked_lm_gives_the_published_classs_scores(tmp_path: Path) -> None:
    """Names are one thing; this shows that the head's arithmetic is the same as well."""
    plan = plan_for("xlm-roberta", "padded")
    source = AutoModelForMaskedLM.from_config(plan.config).eval()
    save_safetensors(source, tmp_path)
    model = build(plan, [MLM, PAIRS]).eval()
    values = read_all(tmp_path, plan)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values.get(name, parameter))
    ids = torch.arange(5, 25)
    hidden = model.encoder(input_ids=ids[None]).last_hidden_state[0]
    batch = type("Batch", (), {"label_positions": torch.arange(20)})()
    assert torch.allclose(model.heads["mlm"](hidden, batch), source(input_ids=ids[None]).logits[0], atol=1e-5)


def test_ranges_are_read_without_the_rest(tmp_path: Path) -> None:
    plan = plan_for("xlm-roberta")
    source = AutoModel.from_config(plan.config)
    save_safetensors(source, tmp_path)
    weights = PretrainedWeights(tmp_path, describe_parameters(plan, []), plan.prefix)
    whole = source.get_input_embeddings().weight.detach().flatten()
    for start, stop in [(0, 1), (47, 49), (48, 96), (100, 1000), (len(whole) - 1, len(whole))]:
        found = weights.read("encoder.embeddings.word_embeddings.weight", start, stop)
        assert torch.equal(found, whole[start:stop])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_read_as_fp32(dtype: torch.dtype, tmp_path: Path) -> None:
    plan = plan_for("xlm-roberta")
    source = AutoModel.from_config(plan.config).to(dtype)
    save_safetensors(source, tmp_path)
    found = encoder_part(read_all(tmp_path, plan))
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert_equal(found, bare_state(source))


def test_gamma_and_beta_of_old_files_are_norm_weights(tmp_path: Path) -> None:
    plan = plan_for("bert")
    source = AutoModel.from_config(plan.config)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in source.state_dict().items()
    }
    torch.save(old, tmp_path / "pytorch_model.bin")
    assert_equal(encoder_part(read_all(tmp_path, plan)), bare_state(source))


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Tensor]:
    """The tensors of a folder with good files; a test spoils them and writes them back with `rewrite`."""
    save_safetensors(AutoModel.from_config(plan_for("xlm-roberta").config), tmp_path)
    return load_file(tmp_path / "model.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read_all(folder, plan_for("xlm-roberta"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_encoder_weight_is_named(stored: dict[str, Tensor], tmp_path: Path) -> None:
    del stored["encoder.layer.2.output.dense.weight"]
    save_file(stored, tmp_path / "model.safetensors")
    assert "weight encoder.layer.2.output.dense.weight of the encoder is missing" in refusal(tmp_path)


def test_a_weight_of_another_shape_is_named_with_both_shapes(stored: dict[str, Tensor], tmp_path: Path) -> None:
    stored["embeddings.word_embeddings.weight"] = torch.zeros(91, 48)
    save_file(stored, tmp_path / "model.safetensors")
    assert "embeddings.word_embeddings.weight has shape [91, 48], the model wants [90, 48]" in refusal(tmp_path)


def test_quantised_weights_are_refused(stored: dict[str, Tensor], tmp_path: Path) -> None:
    name = "encoder.layer.1.output.dense.weight"
    stored[name] = stored[name].to(torch.int8)
    save_file(stored, tmp_path / "model.safetensors")
    assert f"{name} is quantised, not of floating-point numbers" in refusal(tmp_path)


def test_a_file_that_is_cut_while_it_is_in_use_is_named(stored: dict[str, Tensor], tmp_path: Path) -> None:
    plan = plan_for("xlm-roberta")
    specs = describe_parameters(plan, [])
    weights = PretrainedWeights(tmp_path, specs, plan.prefix)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=rf"{path} cannot be read \(it ends too early\); fetch it again"):
        for name, spec in specs.items():
            weights.read(name, 0, spec.numel)


def test_an_index_that_promises_too_much_is_named(tmp_path: Path) -> None:
    save_sharded(AutoModel.from_config(plan_for("xlm-roberta").config), tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    places = json.loads(index.read_bytes())["weight_map"]
    name = "embeddings.word_embeddings.weight"
    other = next(file for file in places.values() if file != places[name])
    index.write_text(json.dumps({"weight_map": places | {name: other}}))
    assert f"{other} does not hold {name}, though the index says so" in refusal(tmp_path)


def test_a_torn_file_is_named(stored: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} cannot be read" in refusal(tmp_path)


def test_an_absent_part_is_named(tmp_path: Path) -> None:
    save_sharded(AutoModel.from_config(plan_for("xlm-roberta").config), tmp_path)
    part = sorted(tmp_path.glob("model-*.safetensors"))[1]
    part.unlink()
    assert f"{part} cannot be read" in refusal(tmp_path)


def test_a_pickle_of_more_than_tensors_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "harm",))  # type: ignore[return-value]

    torch.save({"embeddings": Harmful()}, tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin cannot be read" in refusal(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_folder_without_weights_says_what_is_looked_for(tmp_path: Path) -> None:
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(tmp_path)


def test_a_broken_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert "model.safetensors.index.json is not an index of weight files" in refusal(tmp_path)


def test_a_folder_is_its_own_snapshot(tmp_path: Path) -> None:
    assert pretrained_folder(str(tmp_path), "") == tmp_path


def test_a_name_that_cannot_be_fetched_is_an_error_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"model.name = 'nobody/nothing' cannot be loaded: .* or give a folder"):
        pretrained_folder("nobody/nothing", "")


def test_weight_files_are_told_apart_by_their_content(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder, value in ((first, 1.0), (second, 1.0), (third, 1.5)):
        folder.mkdir()
        save_file({"weight": torch.full((300_000,), value)}, folder / "model.safetensors")
    assert content_of_weight_files(first) == content_of_weight_files(second)
    assert content_of_weight_files(first) != content_of_weight_files(third)
