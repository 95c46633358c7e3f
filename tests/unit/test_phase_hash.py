"""The name of a phase: it changes with everything that decides the result, and with nothing else."""

from dataclasses import replace
from typing import Any

import pytest

from xlt_scale.config import ModelOptions, PhaseOptions
from xlt_scale.modeling.encoder import EncoderPlan, build_encoder, plan_encoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.training import identity
from xlt_scale.training.identity import hash_of, phase_identity

PHASE = PhaseOptions(name="target", task="micro-nli", steps=10)


def encoder(**architecture: Any) -> EncoderPlan:
    return plan_encoder(ModelOptions(size="micro-small", tokenizer="micro", dropout=0.0, architecture=architecture))


@pytest.fixture(scope="module")
def plan() -> EncoderPlan:
    return encoder()


def name(plan: EncoderPlan, phase: PhaseOptions = PHASE, **changes: Any) -> str:
    facts: dict[str, Any] = {
        "plan": plan,
        "heads": [HeadSpec("micro-nli", "classification", 2)],
        "origin": "fresh:1",
        "data": {"micro-nli": "0123"},
        "num_steps": 10,
        "seed": 1,
        "precision": "fp32",
        "max_length": 64,
    }
    return hash_of(phase_identity(phase, **facts | changes))


def changed(**values: Any) -> PhaseOptions:
    return PhaseOptions.model_validate(PHASE.model_dump() | values)


def test_the_name_is_sixteen_hexadecimal_digits(plan: EncoderPlan) -> None:
    assert len(name(plan)) == 16
    assert int(name(plan), 16) >= 0


def test_the_same_phase_has_the_same_name(plan: EncoderPlan) -> None:
    assert name(plan) == name(encoder(), changed())


@pytest.mark.parametrize(
    "values",
    [
        {"task": "micro-topic"},
        {"task": "", "mixture": {"micro-nli": 1.0}},
        {"languages": ["qen"]},
        {"max_examples": 5},
        {"batch_size": 33},
        {"learning_rate": 2e-5},
        {"optimizer": "adamw_8bit"},
        {"schedule": "cosine"},
        {"warmup": 0.2},
        {"weight_decay": 0.0},
        {"betas": (0.9, 0.98)},
        {"epsilon": 1e-6},
        {"gradient_clipping": 0.0},
        {"freeze_embeddings": True},
        {"masking": 0.3},
        {"pooling": "mean"},
        {"objective": "masked_next_token"},
        {"keep_heads": True},
        {"adapter": {"rank": 16}},
        {"mixture": ["a", "b"], "task": "", "mixing": "uniform"},
        {"mixing_cap": 0},
        {"mixing_temperature": 2.0},
        {"joint": {"mlm": 0.5}},
        {"task_languages": {"micro-nli": ["qaa"]}},
        {"language_exponent": 0.3},
        {"train_split": "dev"},
        {"max_length": 64},
        {"warmup_steps": 5},
        {"keep": "best", "evaluate_every": 5},
    ],
    ids=lambda values: "-".join(values),
)
def test_an_option_that_decides_the_result_changes_the_name(plan: EncoderPlan, values: dict[str, Any]) -> None:
    assert name(plan, changed(**values)) != name(plan)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "other"},
        {"parent": "pretrain"},
        {"baseline": "pretrain"},
        {"weights": "drop"},
        {"evaluate": ["micro-nli"]},
        {"evaluate_languages": ["qaa"]},
        {"evaluate_split": "dev"},
        {"retrieval_depth": 1.0},
        {"retrieval_layers": "all"},
        {"no_answer_threshold": 1.0},
        {"max_answer_tokens": 10},
        {"evaluate_examples": 5},
        {"preset": "jiant"},
        {"evaluate_every": 3},
        {"evaluation_examples": 7},
        {"seed": 1},
        {"steps": 0, "epochs": 2.0},
    ],
    ids=lambda values: "-".join(values),
)
def test_an_option_that_only_names_scores_or_compares_does_not(plan: EncoderPlan, values: dict[str, Any]) -> None:
    assert name(plan, changed(**values)) == name(plan)


def test_every_option_of_a_phase_is_decided_one_way_or_the_other() -> None:
    """A new option must be put into one of the two tests above."""
    decisive = {
        *("task", "mixture", "languages", "max_examples", "batch_size", "learning_rate", "schedule", "warmup"),
        *("mixing", "mixing_cap", "mixing_temperature", "joint", "task_languages", "language_exponent"),
        *("keep_heads", "train_split", "max_length", "warmup_steps", "adapter", "objective"),
        *(
            "optimizer",
            "weight_decay",
            "betas",
            "epsilon",
            "gradient_clipping",
            "freeze_embeddings",
            "masking",
            "pooling",
            "keep",
        ),
    }
    only_with_best = {"evaluate_every", "evaluation_examples"}
    without_influence = {
        *("name", "parent", "baseline", "evaluate", "evaluate_languages", "evaluate_split", "retrieval_depth"),
        *("retrieval_layers", "no_answer_threshold", "max_answer_tokens", "evaluate_examples", "preset", "weights"),
        *("steps", "epochs", "seed"),  # what they come to is given apart
    }
    assert decisive | only_with_best | without_influence == set(PhaseOptions.model_fields)


def test_a_phase_that_trains_all_weights_has_the_name_that_it_had_before_there_were_adapters(plan: EncoderPlan) -> None:
    assert "adapter" not in PHASE.model_dump(mode="json")
    lora = {"adapter": {"rank": 16}}
    assert name(plan, changed(adapter={"rank": 16, "base": "nf4"})) != name(plan, changed(**lora))


@pytest.mark.parametrize("values", [{"evaluate_every": 4}, {"evaluation_examples": 7}])
def test_where_the_best_weights_are_kept_the_way_they_are_chosen_decides(
    plan: EncoderPlan, values: dict[str, Any]
) -> None:
    best = {"keep": "best", "evaluate_every": 5}
    assert name(plan, changed(**best)) != name(plan, changed(**best | values))


@pytest.mark.parametrize(
    "facts",
    [
        {"origin": "fresh:2"},
        {"data": {"micro-nli": "4567"}},
        {"data": {"micro-nli": "0123", "micro-topic": "0123"}},
        {"num_steps": 11},
        {"seed": 2},
        {"precision": "bf16"},
        {"max_length": 32},
    ],
    ids=lambda facts: next(iter(facts)),
)
def test_a_fact_from_outside_the_phase_changes_the_name(plan: EncoderPlan, facts: dict[str, Any]) -> None:
    assert name(plan, **facts) != name(plan)


def test_another_model_changes_the_name(plan: EncoderPlan) -> None:
    others = [encoder(num_hidden_layers=7), encoder(hidden_dropout_prob=0.5, hidden_act="relu")]
    assert len({name(plan), *map(name, others)}) == 3


def test_padded_instead_of_unpadded_changes_the_name(plan: EncoderPlan) -> None:
    assert plan.unpadded
    assert name(replace(plan, unpadded=False)) != name(plan)


def test_another_numerics_version_changes_the_name(plan: EncoderPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    before = name(plan)
    monkeypatch.setattr(identity, "NUMERICS_VERSION", identity.NUMERICS_VERSION + 1)
    assert name(plan) != before


def test_the_place_and_the_library_that_wrote_the_configuration_do_not(plan: EncoderPlan) -> None:
    before = name(plan)
    elsewhere = encoder()
    elsewhere.config._name_or_path = "/another/folder"
    elsewhere.config.transformers_version = "0.0"
    assert name(elsewhere) == before


def test_the_order_of_the_tasks_of_a_mixture_does_not_matter(plan: EncoderPlan) -> None:
    one, other = {"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}
    assert name(plan, changed(task="", mixture=one)) == name(plan, changed(task="", mixture=other))


def test_the_order_of_languages_does_because_data_are_taken_in_that_order(plan: EncoderPlan) -> None:
    assert name(plan, changed(languages=["qaa", "qab"])) != name(plan, changed(languages=["qab", "qaa"]))


def test_building_the_model_does_not_because_later_phases_are_named_after_it() -> None:
    fresh = encoder()
    before = name(fresh)
    build_encoder(fresh)
    assert name(fresh) == before


def test_the_heads_change_the_name(plan: EncoderPlan) -> None:
    assert name(plan, heads=[HeadSpec("micro-nli", "classification", 3)]) != name(plan)


def test_quantised_communication_makes_it_another_phase(plan: EncoderPlan) -> None:
    quantised = name(plan, quantised=["zero_quantized_weights"])
    assert quantised != name(plan) == name(plan, quantised=[])
    assert quantised != name(plan, quantised=["zero_quantized_gradients"])


def test_float8_products_make_it_another_phase(plan: EncoderPlan) -> None:
    assert name(plan, float8=True) != name(plan) == name(plan, float8=False)
