"""A process that no launcher has started: it is a world of its own, whatever happens to the machine's ports."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

# Joins while others take every port that was looked for, and starts itself once more with what it then hands on.
PROGRAM = """
import json, os, socket, subprocess, sys

plain, taken = socket.socket, []

class Looking(plain):
    def close(self):
        address = self.getsockname()
        super().close()
        other = plain()
        other.bind(address)
        other.listen()
        taken.append(other)

import torch
from xlt_scale.engines.world import join_world

socket.socket = Looking
world = join_world("cpu")
socket.socket = plain
found = {"rank": world.rank, "size": world.size, "sum": world.sum(torch.ones(1)).item()}
found |= {"ranks": world.gather("me"), "port": int(os.environ["MASTER_PORT"])}
with socket.create_connection((os.environ["MASTER_ADDR"], found["port"])):
    found["answers"] = True
if sys.argv[1] == "parent":
    found["child"] = json.loads(subprocess.check_output([sys.executable, "-c", sys.argv[2], "child"]))
print(json.dumps(found), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What the program found."""
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    command = [sys.executable, "-c", PROGRAM, "parent", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env=clean, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_joins_though_every_port_that_it_could_look_for_is_taken(alone: dict[str, Any]) -> None:
    assert {name: alone[name] for name in ("rank", "size", "sum", "ranks")} == {
        "rank": 0,
        "size": 1,
        "sum": 1.0,
        "ranks": ["me"],
    }


def test_others_find_its_store_where_the_environment_says(alone: dict[str, Any]) -> None:
    """DeepSpeed and torch read it there."""
    assert alone["answers"]


def test_what_it_starts_is_alone_too_though_it_is_handed_the_same_address(alone: dict[str, Any]) -> None:
    assert (alone["child"]["rank"], alone["child"]["size"]) == (0, 1)
    assert alone["child"]["port"] != alone["port"]
