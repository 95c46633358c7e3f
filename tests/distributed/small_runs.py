"""Process groups of one to four ranks, each started once for all tests that ask what happened in it."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from launch import REPOSITORY, launch

ENGINES = ("zero3", "fsdp2")
FAMILIES = ("xlm-roberta-xl", "modernbert", "t5", "mt5", "xlnet", "albert")
SHORT, LONG = 8, 20
FORMAT_STEPS = 24
"""In so many steps a mixture has trained every format."""

LOPSIDED_STEPS = 4
"""With a micro-batch for every example."""

SMALL_BUDGET = 64

Answers = dict[str, list[Any]]
"""What each rank answered to each action, by the action's name."""


class SmallRuns:
    """The actions of all tests, grouped by world size. A group is started when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._broken = ""

    @cached_property
    def one(self) -> Answers:
        actions: dict[str, Any] = {}
        for name in ENGINES:
            actions[name] = self._train(name, LONG)
            actions[f"{name} frozen"] = self._train(name, SHORT, phase={"freeze_embeddings": True})
            actions[f"{name} formats"] = self._train(name, FORMAT_STEPS, formats=True)
        actions["zero3 unknown setting"] = {
            "do": "build_refused",
            "engine": self._deepspeed({"stage": 3, "colour": "red"}),
        }
        actions["zero3 wrong setting"] = {
            "do": "build_refused",
            "engine": self._deepspeed({"stage": 3, "reduce_bucket_size": "large"}),
        }
        return self._run(1, actions)

    @cached_property
    def three(self) -> Answers:
        actions: dict[str, Any] = {}
        for name in ENGINES:
            actions[name] = self._train(name, 3)
            actions[f"{name} formats"] = self._train(name, FORMAT_STEPS, formats=True)
        return self._run(3, actions)

    @cached_property
    def two(self) -> Answers:
        partitioned = {"stage": 3, "stage3_param_persistence_threshold": 0, "reduce_bucket_size": 2000}
        partitioned |= {"stage3_prefetch_bucket_size": 2000, "sub_group_size": 5000}
        actions: dict[str, Any] = {}
        for name in ENGINES:
            actions[name] = self._train(name, LONG)
            actions[f"{name} one micro-batch"] = self._train(name, SHORT, max_tokens_per_micro_batch=10_000)
            actions[f"{name} lopsided"] = self._train(name, LOPSIDED_STEPS, lopsided=True)
            actions[f"{name} frozen"] = self._train(name, SHORT, phase={"freeze_embeddings": True})
            actions[f"{name} unclipped"] = self._train(name, SHORT, phase={"gradient_clipping": 0.0})
            actions[f"{name} formats"] = self._train(name, FORMAT_STEPS, formats=True)
            actions[f"{name} formats padded"] = self._train(name, 4, formats=True, family="t5")
            for budget in (40, 5000):
                actions[f"{name} predictions {budget}"] = {
                    "do": "predictions",
                    "engine": {"name": name},
                    "budget": budget,
                }
            actions[f"{name} checkpointing"] = self._train(name, SHORT, activation_checkpointing=True)
            actions[f"{name} bf16"] = self._train(name, SHORT, precision="bf16")
            actions[f"{name} bf16 frozen"] = self._train(name, 3, precision="bf16", phase={"freeze_embeddings": True})
            actions[f"{name} loads after prediction"] = {"do": "load_after_prediction", "engine": {"name": name}}
            for budget in (40, 5000):
                actions[f"{name} classes {budget}"] = {"do": "classes", "engine": {"name": name}, "budget": budget}
            for family in FAMILIES:
                actions[f"{name} {family}"] = self._train(name, 4, family=family)
        offload = str(REPOSITORY / "ds_configs" / "zero3_offload.json")
        actions["zero3 offload"] = self._train("zero3", SHORT, deepspeed_config=offload)
        actions["zero3 partitioned"] = self._train("zero3", SHORT, **self._deepspeed(partitioned))
        return self._run(2, actions)

    @cached_property
    def four(self) -> Answers:
        actions: dict[str, Any] = {}
        for name in ENGINES:
            actions[name] = self._train(name, SHORT)
        return self._run(4, actions)

    def at(self, world_size: int) -> Answers:
        return {1: self.one, 2: self.two, 3: self.three, 4: self.four}[world_size]

    def _train(self, name: str, steps: int, **arguments: Any) -> dict[str, Any]:
        action: dict[str, Any] = {"do": "train", "steps": steps}
        for key in ("phase", "lopsided", "family", "formats"):
            if key in arguments:
                action[key] = arguments.pop(key)
        return action | {"engine": {"name": name, "max_tokens_per_micro_batch": SMALL_BUDGET} | arguments}

    def _deepspeed(self, zero_optimization: dict[str, Any]) -> dict[str, Any]:
        """Engine options with a DeepSpeed file of these settings."""
        path = self._folder / f"deepspeed-{'-'.join(zero_optimization)}.json"
        path.write_text(json.dumps({"zero_optimization": zero_optimization}))
        return {"deepspeed_config": str(path)}

    def _run(self, world_size: int, actions: dict[str, Any]) -> Answers:
        if self._broken:
            pytest.fail(f"an earlier process group failed: {self._broken}")
        folder = self._folder / f"ranks-{world_size}-{len(list(self._folder.iterdir()))}"
        try:
            answers = launch("actions", world_size, actions, folder)
        except AssertionError as error:
            self._broken = str(error).splitlines()[0]
            raise
        return {name: [answer[name] for answer in answers] for name in actions}
