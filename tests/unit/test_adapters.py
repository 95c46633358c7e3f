"""Adapters: which layers get them, how they are merged, what lies in four bits, how a study marks them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import MLM, PAIRS, classification_batch, plan_for
from small_records import SmallStudy
from torch import Tensor, nn

from xlt_scale.config import AdapterOptions, ModelOptions, PhaseOptions, load_run
from xlt_scale.errors import UserError
from xlt_scale.modeling.adapters import four_bit_layers, is_adapter, plain_name
from xlt_scale.modeling.encoder import EncoderPlan, plan_encoder
from xlt_scale.modeling.four_bit import FourBitLinear
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.merged_weights import MergedWeights
from xlt_scale.modeling.parameters import ParameterSpec, describe_parameters
from xlt_scale.modeling.weights import FreshWeights
from xlt_scale.scaling.analysis.trained_parts import adapter_caveats
from xlt_scale.scaling.records.facts import study_facts
from xlt_scale.scaling.records.status import study_status

ROOT = Path(__file__).parents[2]
LORA = AdapterOptions(rank=4, alpha=8.0)
NF4 = AdapterOptions(rank=4, alpha=8.0, base="nf4")
LORA_16 = {"adapter": {"rank": 16}}
QUERY = "encoder.encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def plan() -> EncoderPlan:
    return plan_for("xlm-roberta-xl", hidden_size=64, intermediate_size=128, num_hidden_layers=2)


def specs_of(plan: EncoderPlan, adapter: AdapterOptions | None) -> dict[str, ParameterSpec]:
    return describe_parameters(plan, [PAIRS], adapter)


def drawn(plan: EncoderPlan, adapter: AdapterOptions | None) -> FreshWeights:
    """Weights in which B is not zero, so that an adapter has something to say."""
    specs = specs_of(plan, adapter)
    moved = {
        name: dataclasses.replace(spec, fill="normal", deviation=0.2) if name.endswith("lora_B.weight") else spec
        for name, spec in specs.items()
    }
    return FreshWeights(moved, seed=1)


def filled(plan: EncoderPlan, adapter: AdapterOptions | None, source: Any) -> HeadedEncoder:
    model = HeadedEncoder(plan, [PAIRS], adapter, torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            source.read_into(parameter.view(-1), name, 0)
        for name, layer in four_bit_layers(model):
            layer.fill(source.read(name, 0, layer.out_features * layer.in_features).view(layer.shape))
    return model.eval()


def scores(model: HeadedEncoder) -> Tensor:
    with torch.no_grad():
        return model(classification_batch([7, 3, 12]), "scores")


def factors_of(plan: EncoderPlan, source: FreshWeights, adapter: AdapterOptions = LORA) -> dict[str, Tensor]:
    return {
        name: source.read(name, 0, spec.numel).view(spec.shape)
        for name, spec in specs_of(plan, adapter).items()
        if is_adapter(name)
    }


@pytest.mark.parametrize("adapter", [LORA, NF4], ids=["full", "nf4"])
def test_the_encoders_parameters_keep_their_names_and_adapters_come_beside_them(
    plan: EncoderPlan, adapter: AdapterOptions
) -> None:
    plain, adapted = specs_of(plan, None), specs_of(plan, adapter)
    assert {name: spec for name, spec in adapted.items() if not is_adapter(name)} == plain
    assert adapted[f"{QUERY}.lora_A.weight"].shape == (4, 64)
    assert adapted[f"{QUERY}.lora_B.weight"].shape == (64, 4)


@pytest.mark.parametrize("family", ["xlm-roberta", "xlm-roberta-xl", "bert", "modernbert", "xlnet"])
def test_all_linear_layers_of_the_encoder_get_one_and_nothing_else(family: str) -> None:
    plan = plan_for(family)
    linear = [name for name, module in HeadedEncoder(plan, []).named_modules() if isinstance(module, nn.Linear)]
    adapted = {name.partition(".lora_")[0] for name in describe_parameters(plan, [MLM], LORA) if is_adapter(name)}
    assert adapted == set(linear)


def test_targets_are_endings_of_layers_names(plan: EncoderPlan) -> None:
    chosen = AdapterOptions(rank=2, targets=["query", "attention.output.dense"])
    adapted = {name.partition(".lora_")[0] for name in specs_of(plan, chosen) if is_adapter(name)}
    endings = ("attention.self.query", "attention.output.dense")
    assert adapted == {f"encoder.encoder.layer.{number}.{ending}" for number in (0, 1) for ending in endings}


def test_fresh_adapters_are_drawn_as_peft_spreads_them_and_change_nothing(plan: EncoderPlan) -> None:
    specs = specs_of(plan, LORA)
    uniform = nn.init.kaiming_uniform_(torch.empty(512, 64), a=5**0.5)
    assert specs[f"{QUERY}.lora_A.weight"].deviation == pytest.approx(uniform.std().item(), rel=0.02)
    assert specs[f"{QUERY}.lora_B.weight"] == ParameterSpec((64, 4), "zeros")
    source = FreshWeights(specs, seed=1)
    assert torch.equal(scores(filled(plan, LORA, source)), scores(filled(plan, None, source)))


def test_the_merged_model_computes_what_the_adapted_one_does(plan: EncoderPlan) -> None:
    source = drawn(plan, LORA)
    adapted = scores(filled(plan, LORA, source))
    merged = filled(plan, None, MergedWeights(source, factors_of(plan, source), 8.0 / 4))
    assert (scores(merged) - adapted).abs().max() < 1e-5
    assert (scores(filled(plan, None, source)) - adapted).abs().max() > 1e-2


def test_merging_gives_the_same_bits_whatever_the_range(plan: EncoderPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    source = drawn(plan, LORA)
    merged = MergedWeights(source, factors_of(plan, source), 2.0)
    whole = merged.read(f"{QUERY}.weight", 0, 64 * 64)
    monkeypatch.setattr("xlt_scale.modeling.merged_weights._PIECE", 100)
    parts = [merged.read(f"{QUERY}.weight", low, high) for low, high in ((0, 1), (1, 700), (700, 4096))]
    assert torch.equal(torch.cat(parts), whole)


class TestFourBits:
    """Against bitsandbytes' own functions."""

    @pytest.fixture
    def dense(self) -> nn.Linear:
        torch.manual_seed(1)
        return nn.Linear(128, 48)

    @pytest.fixture
    def layer(self, dense: nn.Linear) -> FourBitLinear:
        layer = FourBitLinear(dense, torch.float32)
        layer.fill(dense.weight.detach())
        return layer

    def dequantised(self, dense: nn.Linear) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        options: dict[str, Any] = {"blocksize": 64, "compress_statistics": False, "quant_type": "nf4"}
        return dequantize_4bit(*quantize_4bit(dense.weight.detach(), **options))

    def test_any_range_of_the_weight_reads_as_bitsandbytes_dequantises_it(
        self, dense: nn.Linear, layer: FourBitLinear
    ) -> None:
        expected = self.dequantised(dense).view(-1)
        for start, stop in ((0, 48 * 128), (1, 64), (63, 65), (5000, 6144)):
            assert torch.equal(layer.read(start, stop), expected[start:stop])

    def test_quantising_what_was_dequantised_changes_nothing(self, dense: nn.Linear, layer: FourBitLinear) -> None:
        before = layer.read(0, 48 * 128)
        layer.fill(before.view(48, 128))
        assert torch.equal(layer.read(0, 48 * 128), before)

    def test_it_multiplies_by_that_weight_and_passes_gradients_to_its_input(
        self, dense: nn.Linear, layer: FourBitLinear
    ) -> None:
        inputs = torch.randn(5, 128, requires_grad=True)
        layer(inputs).square().sum().backward()
        found, inputs.grad = inputs.grad, None
        product = nn.functional.linear(inputs, self.dequantised(dense), dense.bias)
        product.square().sum().backward()
        assert torch.allclose(layer(inputs), product, atol=1e-6)
        assert found is not None and inputs.grad is not None
        assert torch.allclose(found, inputs.grad, rtol=1e-5, atol=1e-5)

    def test_its_weight_is_neither_parameter_nor_buffer(self, layer: FourBitLinear) -> None:
        assert [name for name, _ in layer.named_parameters()] == ["bias"]
        assert not list(layer.named_buffers())

    def test_the_merged_model_computes_what_the_adapted_one_does(self, plan: EncoderPlan) -> None:
        source = drawn(plan, NF4)
        adapted = filled(plan, NF4, source)
        layers = dict(four_bit_layers(adapted))
        assert set(layers) == {f"{name.partition('.lora_')[0]}.weight" for name in factors_of(plan, source, NF4)}
        merged = MergedWeights(source, factors_of(plan, source, NF4), 2.0)
        plain = filled(plan, None, merged)
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                if name in layers:
                    rounding = layers[name].read(0, parameter.numel()) - source.read(name, 0, parameter.numel())
                    parameter.view(-1).add_(rounding)
        assert (scores(plain) - scores(adapted)).abs().max() < 1e-5


def test_plain_names_are_those_without_peft() -> None:
    assert plain_name("encoder.a.base_layer.bias") == "encoder.a.bias"
    assert plain_name("encoder.a.lora_A.default.weight") == "encoder.a.lora_A.weight"
    assert plain_name("heads.pairs.dense.weight") == "heads.pairs.dense.weight"


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ({"targets": ["qeury"]}, "adapter.targets has 'qeury', which is no ending of a linear layer's name"),
        ({"targets": ["qeury"]}, "did you mean 'query'?"),
        ({"targets": ["uery"]}, "did you mean 'query'?"),
        ({"targets": []}, "adapter.targets is empty"),
        ({"base": "nf4"}, "adapter.base = 'nf4' is for layers with a multiple of 64 inputs, encoder.layer.0."),
    ],
)
def test_what_fits_no_layer_is_refused_with_the_mend(adapter: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        describe_parameters(plan_for("xlm-roberta"), [], AdapterOptions(**adapter))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ("{ rank = 0 }", "phases.0.adapter.rank = 0: input should be greater than 0"),
        ("{ rnak = 4 }", "unknown key 'phases.0.adapter.rnak'; did you mean 'rank'?"),
        ("{ base = 'nf5' }", "phases.0.adapter.base = 'nf5': input should be 'full' or 'nf4'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_the_run_file(tmp_path: Path, adapter: str, expected: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        f'[model]\nsize = "micro-tiny"\ntokenizer = "micro"\n[[phases]]\nname = "a"\ntask = "micro-nli"\nsteps = 1\n'
        f"adapter = {adapter}\n"
    )
    with pytest.raises(UserError) as caught:
        load_run(path)
    assert expected in str(caught.value)


def test_the_ready_run_file_fits_the_largest_published_encoder() -> None:
    phase = load_run(ROOT / "launch" / "runs" / "mnli_xnli_xxl_lora.toml").phases[0]
    assert phase.adapter is not None
    assert phase.adapter.label == "nf4-lora-16"
    plan = plan_encoder(ModelOptions(size="xlmr-xxl", tokenizer="micro", attention="padded"))
    adapted = [name for name in describe_parameters(plan, [], phase.adapter) if name.endswith("lora_A.weight")]
    assert len(adapted) == 6 * plan.num_layers


def test_a_phase_that_trains_nothing_has_no_adapter() -> None:
    with pytest.raises(ValueError, match="has an adapter but trains nothing"):
        PhaseOptions(name="a", evaluate=["tatoeba"], adapter=LORA)


class TestMarks:
    """Adapters are another experimental condition: whoever reads a study is told."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[..., SmallStudy]:
        def make(of_sizes: tuple[dict[str, Any], dict[str, Any]], **changes: Any) -> SmallStudy:
            names = ("micro-tiny", "micro-small")
            sizes = [{"name": name} | tables for name, tables in zip(names, of_sizes, strict=True)]
            return SmallStudy.make(tmp_path, sizes=sizes, **changes)

        return make

    def test_an_adapter_in_a_sizes_tables_reaches_its_phases_and_changes_their_names(
        self, make: Callable[..., SmallStudy]
    ) -> None:
        plain, mixed = make(({}, {})), make(({}, {"target": LORA_16}))
        assert {phase.options.adapter for phase in plain.phases()} == {None}
        of_targets = [phase for phase in mixed.phases(size="micro-small", role="target") if phase.options.trains]
        assert {phase.options.adapter.label for phase in of_targets if phase.options.adapter} == {"lora-16"}
        there = {phase.name for phase in plain.phases(size="micro-small")}
        assert not there & {phase.name for phase in of_targets}
        tiny = {phase.name for phase in plain.phases(size="micro-tiny")}
        assert tiny == {phase.name for phase in mixed.phases(size="micro-tiny")}

    def test_the_status_names_them_in_one_word(self, make: Callable[..., SmallStudy]) -> None:
        both = {"intermediate": LORA_16, "target": LORA_16}
        study = make(({}, both))
        rows = study_status(study.folder, study.grid).rows
        marks = {(row.size, row.arm): row.adapters for row in rows if row.arm}
        assert {mark for (size, _), mark in marks.items() if size == "micro-tiny"} == {""}
        assert {mark for (size, _), mark in marks.items() if size == "micro-small"} == {"lora-16"}

    def test_the_report_warns_where_sizes_are_trained_in_different_ways(self, make: Callable[..., SmallStudy]) -> None:
        both = {"intermediate": LORA_16, "target": LORA_16}
        facts = study_facts(make(({}, both)).study)
        said = adapter_caveats(facts, ["micro-tiny", "micro-small"])
        assert said[0] == (
            "Size is mixed up with what is trained in the target phases: all weights in micro-tiny, lora-16 in "
            "micro-small. Adapters are another experimental condition; compare sizes of one kind."
        )
        assert any("intermediate phases of inference" in line for line in said)

    def test_and_where_an_arm_is_trained_in_another_way_than_the_baseline(
        self, make: Callable[..., SmallStudy]
    ) -> None:
        arms = [
            {"name": "none"},
            {"name": "inference", "phases": [{"task": "mnli"} | LORA_16]},
            {"name": "questions", "phases": [{"task": "squad"}]},
        ]
        said = adapter_caveats(study_facts(make(({}, {}), arms=arms).study), ["micro-tiny"])
        assert said == [
            "At micro-tiny the intermediate phases of the arms train different parts: lora-16 in inference, all "
            "weights in questions; differences between these arms are of that too.",
            "At micro-tiny inference trains lora-16 in the intermediate phases, while every target phase, the "
            "baseline's too, trains all weights.",
        ]

    def test_a_study_of_one_kind_needs_no_warning(self, make: Callable[..., SmallStudy]) -> None:
        both = {"intermediate": LORA_16, "target": LORA_16}
        for tables in ({}, both):
            assert not adapter_caveats(study_facts(make((tables, tables)).study), ["micro-tiny", "micro-small"])
