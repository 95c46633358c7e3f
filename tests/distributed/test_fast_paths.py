"""What makes training fast or small changes nothing but rounding: layer bodies, kept weights, where states lie."""

from typing import Any

import pytest
from agreement import relative_difference

from launch import launch

pytestmark = [pytest.mark.distributed]

ENGINES = ("fsdp2", "zero3")
PLAIN = {"max_tokens_per_micro_batch": 64, "keep_gathered": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "kept": {"keep_gathered": True},
    "recomputed": {"activation_checkpointing": True},
    "every second": {"activation_checkpointing": True, "checkpoint_every": 2},
    "selective": {"activation_checkpointing": "selective"},
    "offloaded": {"offload": "optimizer"},
    "compiled": {"compile": True, "activation_checkpointing": True, "keep_gathered": True},
}
SAME_BITS = [
    *((engine, variant) for engine in ENGINES for variant in ("kept", "recomputed", "every second")),
    ("fsdp2", "selective"),
    ("fsdp2", "offloaded"),
]
# DeepSpeed sums gradients in another order on the host; its selective recomputation needs PyTorch's linear layers.
ROUNDED = [("zero3", "selective"), ("zero3", "offloaded"), ("zero3", "compiled"), ("fsdp2", "compiled")]
CASES = [(1, "fsdp2", "bf16"), (2, "fsdp2", "bf16"), (2, "zero3", "bf16"), (2, "fsdp2", "fp32"), (2, "zero3", "fp32")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Answers by number of ranks."""
    folder = tmp_path_factory.mktemp("fast-paths")
    answers = {}
    for size in (1, 2):
        actions = {
            f"{engine} {precision} {variant}": {
                "do": "train",
                "engine": {**PLAIN, **options, "name": engine, "precision": precision},
                "steps": 4,
                "family": "xlm-roberta-xl",
            }
            for _, engine, precision in [case for case in CASES if case[0] == size]
            for variant, options in VARIANTS.items()
            if variant != "compiled" or precision == "fp32"
        }
        answers[size] = launch("actions", size, actions, folder / str(size))[0]
    return answers


@pytest.mark.parametrize("size, engine, precision", CASES)
def test_most_of_it_changes_no_bit(size: int, engine: str, precision: str, runs: dict[int, Any]) -> None:
    plain = runs[size][f"{engine} {precision} plain"]
    assert plain["final"] != plain["initial"]
    for variant in [variant for name, variant in SAME_BITS if name == engine]:
        found = runs[size][f"{engine} {precision} {variant}"]
        assert found["losses"] == plain["losses"], variant
        assert found["norms"] == plain["norms"], variant
        assert found["final"] == plain["final"], variant


@pytest.mark.parametrize("engine, variant", ROUNDED)
def test_the_rest_differs_by_rounding_alone(engine: str, variant: str, runs: dict[int, Any]) -> None:
    plain, found = (runs[2][f"{engine} fp32 {name}"] for name in ("plain", variant))
    assert relative_difference(found["losses"], plain["losses"]) < 1e-5
    assert relative_difference(found["norms"], plain["norms"]) < 1e-5
