"""A stand-in for the Hugging Face hub on this machine: as much of its protocol as downloading takes, over real HTTP.

Folders are served as repositories, with a commit, files in git and files in LFS. What goes wrong with the hub can be
switched on: it is gone, sends other bytes than it announced, or breaks off in the middle of a file.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT, DATA_COMMIT, CONVERTED_COMMIT = "a" * 40, "b" * 40, "c" * 40

# A run on what `write_contents` puts there.
RUN = """
[model]
name = "someone/model"
max_length = 32
[tasks.pairs]
kind = "classification"
labels = ["0", "1", "2"]
languages = ["en", "de"]
[[tasks.pairs.hub]]
dataset = "someone/pairs"
config = "{language}"
splits = { train = "train", dev = "validation", test = "test" }
text = "premise"
text_pair = "hypothesis"
[tasks.converted]
kind = "classification"
labels = ["0", "1"]
languages = ["en"]
[[tasks.converted.hub]]
dataset = "someone/converted"
config = "plain"
revision = "refs/convert/parquet"
splits = { train = "train", dev = "validation", test = "test" }
[[phases]]
name = "first"
task = "converted"
steps = 2
batch_size = 4
[[phases]]
name = "second"
parent = "first"
task = "pairs"
steps = 2
batch_size = 4
evaluate = ["pairs"]
"""

KINDS = {"models": "", "datasets": "datasets/"}


@dataclass
class Repository:
    """A served folder.

    Attributes:
        commit: what its branch stands for.
        branches: names of the revisions that there are, beside the commit itself.
        gated: only who sends a token gets it.
    """

    folder: Path
    commit: str
    branches: tuple[str, ...] = ("main",)
    gated: bool = False

    def files(self) -> dict[str, Path]:
        return {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}


@dataclass
class Hub:
    """The stand-in: change it while it runs.

    Attributes:
        repositories: by kind and name, as ("models", "someone/model").
        corrupt: files whose bytes are sent with one bit turned, by name.
        break_off: files whose next answer ends after so many bytes, by name.
        stall: files of which half is sent and no more while they are named here.
        has_stalled: set when one of them has come so far.
        requests: what was asked for, as "GET /api/models/someone/model".
        sent: bytes of file contents that were sent, by name of the file.
    """

    address: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    break_off: dict[str, int] = field(default_factory=dict)
    stall: set[str] = field(default_factory=set)
    has_stalled: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, name: str, folder: Path, commit: str, **more: Any) -> Repository:
        self.repositories[kind, name] = Repository(folder, commit, **more)
        return self.repositories[kind, name]


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    """A hub at a free port of this machine; gone at the end."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        # A process that was killed closes its connection in the middle.
        with suppress(OSError):
            super().handle()

    def log_message(self, *arguments: Any) -> None:
        """Nothing on the terminal of the tests."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_POST(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[0] == "api" and len(parts) >= 4 and parts[1] in KINDS:
            self._answer_api(parts[1], "/".join(parts[2:4]), parts[4:], body)
            return
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if kind == "datasets" else parts
        if len(parts) > 4 and parts[2] == "resolve":
            self._answer_file(kind, "/".join(parts[:2]), parts[3:], with_body)
            return
        self._send(404, {}, b"not found")

    def _find(self, kind: str, name: str) -> Repository | None:
        found = self.hub.repositories.get((kind, name))
        if found is None:
            self._send(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."}, b"")
        elif found.gated and "Authorization" not in self.headers:
            self._send(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {name} is restricted."}, b"")
            return None
        return found

    def _revision(self, repository: Repository, parts: list[str]) -> tuple[str, list[str]]:
        """The commit that a path begins with, and the rest of the path; '' when the revision is unknown."""
        for name in (repository.commit, *repository.branches):
            length = len(name.split("/"))
            if parts[:length] == name.split("/"):
                return repository.commit, parts[length:]
        self._send(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b"")
        return "", []

    def _answer_api(self, kind: str, name: str, parts: list[str], body: bytes) -> None:
        repository = self._find(kind, name)
        if repository is None:
            return
        what, rest = (parts[0], parts[1:]) if parts else ("revision", ["main"])
        commit, rest = self._revision(repository, rest)
        if not commit:
            return
        files = repository.files()
        if what == "revision":
            siblings = [{"rfilename": path} for path in sorted(files)]
            facts = {"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            self._send_json(facts)
        elif what == "tree":
            within = "/".join(rest)
            found = [path for path in sorted(files) if not within or path.startswith(f"{within}/")]
            if within and not found:
                self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
                return
            recursive = "recursive=true" in self.path.lower()
            self._send_json(_tree(files, found, within, recursive))
        elif what == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else []
            self._send_json([_entry(path, files[path]) for path in wanted if path in files])
        else:
            self._send(404, {}, b"")

    def _answer_file(self, kind: str, name: str, parts: list[str], with_body: bool) -> None:
        repository = self._find(kind, name)
        if repository is None:
            return
        commit, rest = self._revision(repository, parts)
        if not commit:
            return
        path = "/".join(rest)
        file = repository.files().get(path)
        if file is None:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"Entry not found")
            return
        content = file.read_bytes()
        etag = hashlib.sha256(content).hexdigest() if _in_lfs(path) else _git_hash(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if _in_lfs(path):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if with_body and path in self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self._send_file(path, content, headers, with_body)

    def _send_file(self, path: str, content: bytes, headers: dict[str, str], with_body: bool) -> None:
        start, status = 0, 200
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            start, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        stop = self.hub.break_off.pop(path, len(content)) if with_body else len(content)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content) - start)}).items():
            self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        try:
            for part in self._parts(path, content[start:stop]):
                self.wfile.write(part)
                self.wfile.flush()
                self.hub.sent[path] = self.hub.sent.get(path, 0) + len(part)
        except OSError:  # whoever asked is gone
            self.close_connection = True
        if stop < len(content):
            self.close_connection = True

    def _parts(self, path: str, content: bytes) -> Iterator[bytes]:
        half = len(content) // 2
        yield content[:half]
        while path in self.hub.stall:
            self.hub.has_stalled.set()
            time.sleep(0.02)
        yield content[half:]

    def _send_json(self, table: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(table).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _in_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".parquet", ".bin"))


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
    if _in_lfs(path):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def _tree(files: dict[str, Path], found: list[str], within: str, recursive: bool) -> list[dict[str, Any]]:
    """The entries of a folder: files, and folders by their names."""
    entries, folders = [], set()
    start = f"{within}/" if within else ""
    for path in found:
        names = path.removeprefix(start).split("/")
        depths = range(1, len(names)) if recursive else range(1, min(2, len(names)))
        folders |= {start + "/".join(names[:depth]) for depth in depths}
        if recursive or len(names) == 1:
            entries.append(_entry(path, files[path]))
    return entries + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]


def write_small_model(folder: Path, seed: int = 1) -> Path:
    """A whole XLM-R of a few kilobytes as the hub has them: configuration, weights, tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel

    from xlt_scale.modeling.tokenizer import trained_tokenizer

    texts = [f"Bus {number} to {place} is late today." for number in range(40) for place in ("Paris", "Nairobi")]
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = AutoConfig.for_model(
        "xlm-roberta", vocab_size=120, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, **shape
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer = trained_tokenizer(texts, 100, folder.with_name(f"{folder.name}-cache"))
    for path in tokenizer.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def write_pairs(folder: Path, languages: tuple[str, ...] = ("en", "de")) -> Path:
    """A data set of sentence pairs with a configuration per language, as people put it on the hub."""
    card = ["---", "configs:"]
    for language in languages:
        card += [f"- config_name: {language}", "  data_files:"]
        for split in ("train", "validation", "test"):
            card += [f"  - split: {split}", f"    path: {language}/{split}.jsonl"]
            rows = [
                {"premise": f"Bus {number} is late.", "hypothesis": f"{language} {split} bus", "label": number % 3}
                for number in range(12)
            ]
            path = folder / language / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder


def write_converted(folder: Path) -> Path:
    """A data set as the hub converts those that are programs: a folder per configuration, no card."""
    import pyarrow
    from pyarrow import parquet

    for split in ("train", "validation", "test"):
        path = folder / "plain" / split / "0000.parquet"
        path.parent.mkdir(parents=True)
        column = [f"{split} {number} bus" for number in range(12)]
        labels = [number % 2 for number in range(12)]
        parquet.write_table(pyarrow.table({"text": column, "label": labels}), path)
    return folder


def write_contents(folder: Path) -> Path:
    """A model and two data sets."""
    write_small_model(folder / "model")
    write_pairs(folder / "pairs")
    write_converted(folder / "converted")
    return folder


def fill(hub: Hub, contents: Path) -> Hub:
    """Put these on the hub, under the names that `RUN` has."""
    converted = ("refs/convert/parquet",)
    hub.add("models", "someone/model", contents / "model", COMMIT)
    hub.add("datasets", "someone/pairs", contents / "pairs", DATA_COMMIT)
    hub.add("datasets", "someone/converted", contents / "converted", CONVERTED_COMMIT, branches=converted)
    return hub
