"""`xlt-scale prefetch` against a hub that runs on this machine: real downloads, real caches, real processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import COMMIT, CONVERTED_COMMIT, DATA_COMMIT, RUN, Hub, fill, hub_stand_in, write_contents
from small_disk import small_disk

ROOT = Path(__file__).resolve().parents[2]
NEXT_COMMIT = "d" * 40


@dataclass
class Node:
    """A login or compute node: an environment with caches of its own."""

    hub: Hub
    folder: Path

    def environment(self, offline: bool) -> dict[str, str]:
        left_out = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "XLT_SCALE_DATA", "HF_TOKEN")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        own = {"HF_ENDPOINT": self.hub.address, "HF_HOME": str(self.folder / "home"), "HF_HUB_ETAG_TIMEOUT": "2"}
        return kept | own | ({"HF_HUB_OFFLINE": "1"} if offline else {})

    def prefetch(self, *arguments: str, run: str = RUN, offline: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, run=run),
            capture_output=True,
            text=True,
            env=self.environment(offline),
            cwd=ROOT,
            check=False,
        )

    def command(self, *arguments: str, run: str = RUN) -> list[str]:
        path = self.folder / "run.toml"
        path.write_text(run)
        own = ["--set", f"data.cache={self.folder / 'cache'}", "--set", "engine.name=fsdp2"]
        own += ["--output", str(self.folder / "output")]
        return [sys.executable, "-m", "xlt_scale.cli", "prefetch", str(path), *own, *arguments]

    def fetch_model(self) -> subprocess.Popen[str]:
        """The first step of a prefetch alone, which takes no time to start."""
        return self.start(
            "from pathlib import Path;"
            "from xlt_scale.modeling.pretrained import pretrained_folder;"
            "from xlt_scale.training.prefetched import Hashes;"
            "from xlt_scale.training.snapshots import snapshot_entry;"
            "name = 'someone/model';"
            "print(snapshot_entry('model', name, '', pretrained_folder(name, ''), Hashes()).commit)"
        )

    def read_data(self, *asked: tuple[str, str, str], offline: bool = False) -> list[str]:
        """What comes of reading data sets by name, configuration and revision, a line each."""
        return output_of(self.start(self.reading(*asked), offline)).splitlines()

    def reading(self, *asked: tuple[str, str, str]) -> str:
        return (
            "from xlt_scale.tasks.hub import read_hub; from xlt_scale.tasks.layouts import HubLayout\n"
            f"for dataset, config, revision in {asked!r}:\n"
            "    layout = HubLayout(dataset=dataset, config=config, revision=revision, splits={'train': 'train'})\n"
            "    try: print(read_hub(layout, 'train', 'en')[0].column('label')[:3])\n"
            "    except ValueError as error: print(error)"
        )

    def start(self, code: str, offline: bool = False) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env=self.environment(offline),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rows(self, *arguments: str, offline: bool = False) -> dict[str, dict[str, Any]]:
        """The table of a prefetch that works, by what stands in each row."""
        done = self.prefetch("--json", *arguments, offline=offline)
        assert done.returncode == 0, done.stderr
        return {row["what"]: row for row in json.loads(done.stdout)}

    def written(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "output" / "prefetched.json").read_text())
        return found

    def files(self, kind: str) -> list[Path]:
        return [Path(path) for entry in self.written()["entries"] if entry["kind"] == kind for path in entry["files"]]


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub has."""
    return write_contents(tmp_path_factory.mktemp("contents"))


@pytest.fixture
def hub(contents: Path) -> Iterator[Hub]:
    with hub_stand_in() as found:
        yield fill(found, contents)


@pytest.fixture
def node(hub: Hub, tmp_path: Path) -> Node:
    return Node(hub, tmp_path)


@pytest.fixture(scope="module")
def fetched(
    contents: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Node, dict[str, dict[str, Any]]]]:
    """A node after a prefetch, with the rows of its table; tests may only read it."""
    with hub_stand_in() as hub:
        node = Node(fill(hub, contents), tmp_path_factory.mktemp("fetched"))
        yield node, node.rows()


def output_of(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


def turn_a_bit(path: Path) -> None:
    content = path.read_bytes()
    path.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


def test_a_branch_is_resolved_to_its_commit_which_is_written_down(fetched: tuple[Node, dict[str, Any]]) -> None:
    node, rows = fetched
    assert rows["model someone/model"]["revision"] == COMMIT
    assert rows["data set pairs en de"]["revision"] == DATA_COMMIT
    assert rows["data set converted en"]["revision"] == CONVERTED_COMMIT
    model = next(entry for entry in node.written()["entries"] if entry["kind"] == "model")
    assert (model["revision"], model["commit"]) == ("", COMMIT)


def test_every_file_is_listed_with_size_and_hash(fetched: tuple[Node, dict[str, Any]], contents: Path) -> None:
    import hashlib

    node, _ = fetched
    weights = next(path for path in node.files("model") if path.name == "model.safetensors")
    entry = next(entry for entry in node.written()["entries"] if entry["kind"] == "model")
    served = (contents / "model" / "model.safetensors").read_bytes()
    assert entry["files"][str(weights)] == {"size": len(served), "sha256": hashlib.sha256(served).hexdigest()}
    for kind in ("data set", "tokens"):
        assert all(path.is_file() for path in node.files(kind)) and node.files(kind)


def test_all_that_is_trained_chosen_by_and_scored_is_tokenised(fetched: tuple[Node, dict[str, Any]]) -> None:
    _, rows = fetched
    assert {what for what in rows if what.startswith("tokens")} == {
        "tokens converted train en",
        "tokens converted dev en",
        "tokens pairs train en",
        "tokens pairs dev en",
        "tokens pairs test en de",
    }
    assert {row["state"] for row in rows.values()} == {"fetched", "tokenised"}


def test_the_check_needs_no_network(fetched: tuple[Node, dict[str, Any]]) -> None:
    node, _ = fetched
    before = len(node.hub.requests)
    assert {row["state"] for row in node.rows("--check", offline=True).values()} == {"ok"}
    assert len(node.hub.requests) == before


def test_without_a_network_a_data_set_is_read_at_the_revision_that_was_fetched(fetched: tuple[Node, Any]) -> None:
    node, _ = fetched
    branch, converted, other = node.read_data(
        ("someone/pairs", "en", ""),
        ("someone/converted", "plain", "refs/convert/parquet"),
        ("someone/pairs", "en", NEXT_COMMIT),
        offline=True,
    )
    assert (branch, converted) == ("[0, 1, 2]", "[0, 1, 0]")
    assert other == (
        f"hub dataset 'someone/pairs' (en): revision {NEXT_COMMIT} is not in the cache "
        f"{node.folder / 'home' / 'datasets'}, which has {DATA_COMMIT}; run xlt-scale prefetch RUN.toml on a node "
        "with a network"
    )


def test_the_check_of_another_run_says_so(fetched: tuple[Node, dict[str, Any]]) -> None:
    node, _ = fetched
    message = refusal(node.prefetch("--check", "--set", "phases.second.max_length=16", offline=True))
    assert "was made for other options of model, data, tasks or phases; run xlt-scale prefetch again" in message


def test_the_check_of_a_learning_rate_is_the_same_check(fetched: tuple[Node, dict[str, Any]]) -> None:
    node, _ = fetched
    assert node.prefetch("--check", "--set", "phases.second.learning_rate=3e-5", offline=True).returncode == 0


def test_the_check_with_another_cache_names_it(fetched: tuple[Node, dict[str, Any]], tmp_path: Path) -> None:
    node, _ = fetched
    message = refusal(node.prefetch("--check", "--set", f"data.cache={tmp_path}", offline=True))
    assert message.startswith(
        f"error: data.cache is {tmp_path} here and was {node.folder / 'cache'} when it was fetched"
    )


def test_the_check_before_any_prefetch_says_what_to_run(node: Node) -> None:
    assert "run xlt-scale prefetch, without --check" in refusal(node.prefetch("--check"))


def test_a_turned_bit_is_found_and_that_alone_is_fetched_again(fetched: tuple[Node, dict[str, Any]]) -> None:
    node, _ = fetched
    weights = next(path for path in node.files("model") if path.name == "model.safetensors")
    table = next(path for path in node.files("data set") if path.suffix == ".arrow")
    tokens = node.files("tokens")[0]
    for path in (weights, table, tokens):
        turn_a_bit(path)
    message = refusal(node.prefetch("--check", offline=True))
    assert message == (
        f"error: model someone/model: changed: {weights}; run xlt-scale prefetch again on a node with a network: it "
        "fetches anew what has changed (3 of 8 are not ok)"
    )
    sent = dict(node.hub.sent)
    again = node.prefetch("--json")
    assert all(f"changed: {path}; fetched again" in again.stderr for path in (weights, table, tokens))
    assert sum(row["state"] == "in cache" for row in json.loads(again.stdout)) == 5
    assert {name for name in node.hub.sent if node.hub.sent[name] != sent[name]} == {"model.safetensors"}
    assert node.prefetch("--check", offline=True).returncode == 0


def test_a_branch_that_has_moved_is_found(fetched: tuple[Node, dict[str, Any]], contents: Path) -> None:
    node, _ = fetched
    for commit, code in ((NEXT_COMMIT, 2), (COMMIT, 0)):
        node.hub.add("models", "someone/model", contents / "model", commit)
        assert output_of(node.fetch_model()) == f"{commit}\n"
        checked = node.prefetch("--check", offline=True)
        assert checked.returncode == code
        assert ("refs/main" in checked.stderr) == (code == 2)


def test_a_killed_prefetch_goes_on_with_the_files_that_are_not_whole(node: Node) -> None:
    node.hub.stall.add("model.safetensors")
    process = node.fetch_model()
    small = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    deadline = time.monotonic() + 60
    while {path.name for path in (node.folder / "home").rglob("snapshots/*/*")} != small:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    node.hub.stall.clear()
    before = dict(node.hub.sent)
    assert output_of(node.fetch_model()) == f"{COMMIT}\n"
    assert {name for name in node.hub.sent if node.hub.sent[name] != before.get(name)} == {"model.safetensors"}


def test_a_connection_that_breaks_is_made_again(node: Node, contents: Path) -> None:
    size = (contents / "model" / "model.safetensors").stat().st_size
    node.hub.break_off["model.safetensors"] = size - 1000
    assert output_of(node.fetch_model()) == f"{COMMIT}\n"


def test_other_bytes_than_the_hub_announces_are_refused_and_removed(node: Node) -> None:
    node.hub.corrupt.add("model.safetensors")
    message = refusal(node.prefetch())
    assert message.startswith(f"error: model.safetensors of model someone/model@{COMMIT[:12]}: sha256 is ")
    assert message.endswith("the file is removed, run the same command again to fetch it anew")
    node.hub.corrupt.clear()
    assert output_of(node.fetch_model()) == f"{COMMIT}\n"


def test_a_changed_small_file_is_refused_by_its_git_hash(node: Node) -> None:
    node.hub.corrupt.add("config.json")
    assert "config.json of model someone/model@" in refusal(node.prefetch())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.name=someone/nothing", "the hub has nothing of that name, or keeps it private; correct the name"),
        ("model.name=someone/gated", "it is gated: the hub gives it only to who has accepted its terms; accept them"),
        ("model.revision=v9", "the hub has no such revision of it; correct the revision"),
        ("phases.second.evaluate=['pears']", "task 'pears' is unknown; did you mean 'pairs'?"),
    ],
    ids=["unknown", "gated", "revision", "task"],
)
def test_what_the_hub_does_not_give_is_one_line(node: Node, contents: Path, setting: str, says: str) -> None:
    node.hub.add("models", "someone/gated", contents / "model", COMMIT, gated=True)
    assert says in refusal(node.prefetch("--set", setting))


def test_what_the_hub_does_not_have_of_data_is_one_line_each(node: Node) -> None:
    unknown, revision, config = node.read_data(
        ("someone/nothing", "en", ""), ("someone/pairs", "en", "v9"), ("someone/pairs", "fr", "")
    )
    assert unknown.startswith("hub dataset 'someone/nothing' (en) cannot be loaded: ") and "correct the name" in unknown
    assert "the hub has no such revision of it" in revision
    assert "BuilderConfig 'fr' not found" in config


def test_a_download_is_announced_with_the_way_to_avoid_it(node: Node) -> None:
    read = node.reading(("someone/pairs", "en", ""))
    code = f"import logging, sys; logging.basicConfig(level=20, stream=sys.stdout, format='%(message)s')\n{read}"
    cache = node.folder / "home" / "datasets"
    announced = f"downloading hub dataset 'someone/pairs' (en) to {cache}; use xlt-scale prefetch beforehand"
    assert announced in output_of(node.start(code)).splitlines()
    assert announced not in output_of(node.start(code)).splitlines()


def test_a_hub_that_is_gone_is_one_line(node: Node) -> None:
    node.hub.address = "http://127.0.0.1:9"
    assert refusal(node.prefetch()) == (
        "error: model.name = 'someone/model' cannot be loaded: the hub (http://127.0.0.1:9) cannot be reached from "
        "here; run xlt-scale prefetch RUN.toml on a node with a network, or give a folder"
    )


def test_a_full_disk_is_one_line(node: Node) -> None:
    with small_disk(node.folder / "home", kilobytes=60):
        message = refusal(node.prefetch())
    assert "home" in message and "is full; make room there, or set HF_HOME to a folder with room" in message
