"""Process groups that save training states, and others that load what those have saved; each is started once."""

import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from small_runs import ENGINES, SMALL_BUDGET, Answers

from launch import REPOSITORY, launch

SIZES = (1, 2, 3, 4)
CROSSINGS = [
    (saver, saving, loader, loading)
    for saver in ENGINES
    for saving in SIZES
    for loader in ENGINES
    for loading in SIZES
    if (saving + loading + (saver != loader)) % 2 == 0
]
"""Who saves at which world size, and who loads at which: half of all, where any three of the four meet."""

SMALL_SUB_GROUPS = {"stage": 3, "sub_group_size": 5000, "stage3_param_persistence_threshold": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "frozen embeddings": {"phase": {"freeze_embeddings": True}},
    "8-bit states": {"phase": {"optimizer": "adamw_8bit"}},
    "two replicas": {"engine": {"name": "fsdp2", "replicas": 2}},
    "offloaded": {"engine": {"deepspeed_config": str(REPOSITORY / "ds_configs" / "zero3_offload.json")}},
    "small sub-groups": {"zero": SMALL_SUB_GROUPS},
}
ENGINES_OF_VARIANTS = {
    "frozen embeddings": ENGINES,
    "8-bit states": ENGINES,
    "two replicas": ("fsdp2",),
    "offloaded": ("zero3",),
    "small sub-groups": ("zero3",),
}
DAMAGES = ("truncated file", "missing marker", "missing range", "missing file", "flipped bit")


class CheckpointRuns:
    """Groups of ranks by world size; the saving ones come first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._saving: dict[int, Answers] = {}
        self._loading: dict[int, Answers] = {}
        self._broken = ""

    def saved(self, size: int) -> Answers:
        """What happened in the group of that size that saved."""
        if size not in self._saving:
            actions = {name: self._save(name, size) for name in ENGINES}
            if size == 2:
                actions |= self._saves_of_two_ranks()
            self._saving[size] = self._run(size, actions)
        return self._saving[size]

    def loaded(self, size: int) -> Answers:
        """What happened in the group of that size that loaded what all have saved."""
        if size not in self._loading:
            for other in SIZES:
                self.saved(other)
            actions = {
                f"{loader} loads {saver} {other}": self._load(loader, self.folder(saver, other))
                for saver, other, loader, loading in CROSSINGS
                if loading == size
            }
            if size == 2:
                actions |= self._loads_of_two_ranks()
            if size == 4:
                replicas = {"name": "fsdp2", "replicas": 2}
                actions["two replicas"] = {
                    "do": "load",
                    "engine": replicas,
                    "folder": str(self.folder("zero3", 3)),
                }
            self._loading[size] = self._run(size, actions)
        return self._loading[size]

    def folder(self, name: str, size: int) -> Path:
        """Where the state of that name lies that a group of that size has saved."""
        return self._folder / f"{name.replace(' ', '-')}-{size}" / "step-00000005"

    def _saves_of_two_ranks(self) -> dict[str, Any]:
        actions: dict[str, Any] = {}
        for name in ENGINES:
            actions[f"{name} asynchronous"] = self._save(f"{name} asynchronous", 2, name) | {"asynchronous": True}
            for precision in ("fp32", "bf16"):
                key = f"{name} interrupted {precision}"
                actions[key] = {
                    "do": "interrupt",
                    "engine": self._engine(name, precision=precision, repeatable=True),
                    "folder": str(self.folder(key, 2)),
                }
            for family in ("xlm-roberta", "xlm-roberta-xl"):
                key = f"{name} published {family}"
                folder = str(self.folder(key, 2))
                actions[key] = {"do": "round_trip", "engine": self._engine(name), "folder": folder, "family": family}
            (self._folder / "file").write_text("")
            actions[f"{name} no folder"] = {
                "do": "save_refused",
                "engine": self._engine(name),
                "folder": str(self._folder / "file" / "step-1"),
            }
            actions[f"{name} full disk"] = {
                "do": "save_refused",
                "engine": self._engine(name),
                "folder": str(self._folder / f"full-{name}" / "step-1"),
                "failing_rank": 1,
            }
        for variant, engines in ENGINES_OF_VARIANTS.items():
            for name in engines:
                key = f"{name} {variant}"
                actions[key] = self._save(key, 2, name) | self._variant(variant, name)
        return actions

    def _loads_of_two_ranks(self) -> dict[str, Any]:
        actions: dict[str, Any] = {}
        for name in ENGINES:
            actions[f"{name} asynchronous"] = self._load(name, self.folder(f"{name} asynchronous", 2))
            for damage, folder in self.damaged.items():
                actions[f"{name} {damage}"] = {
                    "do": "load_refused",
                    "engine": self._engine(name),
                    "folder": str(folder),
                }
            for variant, engines in ENGINES_OF_VARIANTS.items():
                for saver in engines:
                    loads = self._load(name, self.folder(f"{saver} {variant}", 2))
                    same = self._variant(variant, saver) if saver == name else {}
                    phase = VARIANTS[variant].get("phase", {})
                    actions[f"{name} loads {saver} {variant}"] = loads | {"phase": phase} | same
        return actions

    @cached_property
    def damaged(self) -> dict[str, Path]:
        """Copies of a good checkpoint of three ranks, each with one fault."""
        self.saved(3)
        copies = {damage: self._folder / damage.replace(" ", "-") for damage in DAMAGES}
        for folder in copies.values():
            shutil.copytree(self.folder("zero3", 3), folder)
        file = copies["truncated file"] / "rank-00001.safetensors"
        file.write_bytes(file.read_bytes()[:-64])
        (copies["missing marker"] / "COMPLETE").unlink()
        manifest = copies["missing range"] / "manifest.json"
        table = json.loads(manifest.read_text())
        del table["tensors"]["param/heads.mlm.dense.weight"]["ranges"][1]
        manifest.write_text(json.dumps(table))
        (copies["missing file"] / "rank-00002.safetensors").unlink()
        file = copies["flipped bit"] / "rank-00001.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        return copies

    def _engine(self, name: str, **options: Any) -> dict[str, Any]:
        return {"name": name, "max_tokens_per_micro_batch": SMALL_BUDGET} | options

    def _save(self, key: str, size: int, name: str = "") -> dict[str, Any]:
        return {"do": "save", "engine": self._engine(name or key), "folder": str(self.folder(key, size))}

    def _load(self, name: str, folder: Path) -> dict[str, Any]:
        return {"do": "load", "engine": self._engine(name), "folder": str(folder)}

    def _variant(self, variant: str, name: str) -> dict[str, Any]:
        found = VARIANTS[variant]
        engine = self._engine(name) | found.get("engine", {})
        if "zero" in found:
            path = self._folder / f"{variant.replace(' ', '-')}.json"
            path.write_text(json.dumps({"zero_optimization": found["zero"]}))
            engine["deepspeed_config"] = str(path)
        return {"engine": engine, "phase": found.get("phase", {})}

    def _run(self, size: int, actions: dict[str, Any]) -> Answers:
        if self._broken:
            pytest.fail(f"an earlier process group failed: {self._broken}")
        folder = self._folder / f"ranks-{size}-{len(list(self._folder.iterdir()))}"
        try:
            answers = launch("checkpoint_actions", size, actions, folder)
        except AssertionError as error:
            self._broken = str(error).splitlines()[0]
            raise
        return {name: [answer[name] for answer in answers] for name in actions}
