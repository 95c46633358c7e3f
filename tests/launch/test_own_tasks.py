"""Tasks that a run file declares, from their files to the table of gains, in three families of encoders."""

import json
import random
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interruption import refused, snapshot
from runs import ROOT, TRAIN, launcher, start, train_forked

from xlt_scale.checkpoint.manifest import read_manifest
from xlt_scale.config import PhaseOptions, load_run
from xlt_scale.engines.world import World
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.training.run import run
from xlt_scale.training.setup import read_json

OWN_TASKS = ROOT / "launch" / "runs" / "own_tasks.toml"
WORDS = {
    "business": "bank market price trade profit shop money loan",
    "science": "atom planet cell theory light energy star gene",
    "sport": "goal match team race player coach ball score",
}
OPINIONS = {"negative": "dull poor broken sad slow", "positive": "fine bright lovely quick kind"}
NUM_ROWS = 60
SHORT = ("logging.every=1", "logging.progress=plain", "logging.tensorboard=false", "model.max_length=32")
SHORT_PHASES = ("epochs=1", "batch_size=7", "learning_rate=1e-3")


def _sentences() -> list[tuple[str, str, str]]:
    """Topic, opinion and sentence; every sentence is another."""
    choose = random.Random(1)
    rows = []
    for number in range(NUM_ROWS):
        topic, opinion = list(WORDS)[number % 3], list(OPINIONS)[number // 3 % 2]
        words = [*choose.sample(WORDS[topic].split(), 3), choose.choice(OPINIONS[opinion].split())]
        rows.append((topic, opinion, f"the {' and the '.join(words)} thing, number {number}"))
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files that the run file declares."""
    root = tmp_path_factory.mktemp("data")
    rows = _sentences()
    (root / "topics.tsv").write_text("topic\tsentence\n" + "".join(f"{topic}\t{text}\n" for topic, _, text in rows))
    stars = {"negative": "1", "positive": "5"}
    reviews = [f'"{text}",{stars[opinion]}\n' for _, opinion, text in rows]
    (root / "reviews.csv").write_text("review,stars\n" + "".join(reviews) + '"so so, really",3\n')
    pairs = zip(rows, rows[1:] + rows[:1], strict=True)
    lines = [f"{a}\t{b}\t{2.5 * (k == m) + 0.05 * (n % 40):.2f}\n" for n, ((k, _, a), (m, _, b)) in enumerate(pairs)]
    (root / "similarity.tsv").write_text("".join(lines))
    return root


def _save_tokenizer(family: str, folder: Path) -> int:
    """A tokenizer as the family has it, trained on the tests' own words; its size."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    options: dict[str, Any] = {"vocab_size": 400, "show_progress": False}
    if family == "bert":
        names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(special_tokens=list(names.values()), **options)
        framing: Any = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    elif family == "roberta":
        names = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(special_tokens=list(names.values()), initial_alphabet=alphabet, **options)
        framing = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    else:
        names = {"unk": "<unk>", "cls": "<cls>", "sep": "<sep>", "pad": "<pad>", "mask": "<mask>"}
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(special_tokens=list(names.values()), unk_token="<unk>", **options)
        framing = processors.TemplateProcessing(
            single="$A:0 <sep>:0 <cls>:2",
            pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
            special_tokens=[("<cls>", 1), ("<sep>", 2)],
        )
    tokenizer.train_from_iterator([text for _, _, text in _sentences()], trainer)
    tokenizer.post_processor = framing
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{key}_token": name for key, name in names.items()}
    )
    wrapped.save_pretrained(folder)
    return len(wrapped)


def _save_model(family: str, folder: Path) -> Path:
    """A tiny model of the published class with random weights, as its folder on the hub would look."""
    import torch
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    vocabulary = {"vocab_size": _save_tokenizer(family, folder)}
    torch.manual_seed(7)
    match family:
        case "bert":
            config: Any = transformers.BertConfig(max_position_embeddings=40, **vocabulary, **sizes)
            model: Any = transformers.BertForPreTraining(config)
        case "roberta":
            config = transformers.RobertaConfig(max_position_embeddings=40, type_vocab_size=1, **vocabulary, **sizes)
            model = transformers.RobertaForMaskedLM(config)
        case _:
            config = transformers.XLNetConfig(
                d_model=32,
                n_layer=2,
                n_head=2,
                d_inner=48,
                pad_token_id=3,
                bos_token_id=1,
                eos_token_id=2,
                **vocabulary,
            )
            model = transformers.XLNetLMHeadModel(config)
    model.save_pretrained(folder)
    return folder


class Family:
    """A run of launch/runs/own_tasks.toml by two processes, from the files of one family's model."""

    def __init__(self, family: str, engine: str, data: Path, cache: Path, folder: Path) -> None:
        self.name, self.folder, self.run_file = family, folder / "run", OWN_TASKS
        self.attention = "padded" if family == "xlnet" else "unpadded"
        if engine == "zero3":
            self.run_file = folder / "run.toml"
            self.run_file.write_text(_with_phases("topics", "similarity", "topics-after-similarity"))
        self.phases = load_run(self.run_file).phases
        short = [f"phases.{phase.name}.{setting}" for phase in self.phases for setting in SHORT_PHASES]
        places = (f"model.name={_save_model(family, folder / 'model')}", f"data.root={data}")
        self.settings = [*SHORT, *short, *places, f"engine.name={engine}"]
        self.ended = train_forked(self.folder, cache, *self.settings, run=str(self.run_file))
        assert self.ended.code == 0, self.ended.output

    def scores(self, phase: PhaseOptions) -> dict[str, float]:
        return read_json(self.folder / "phases" / phase.name / "scores.json")["scores"][phase.task]["en"]


def _with_phases(*names: str) -> str:
    """The run file with some of its phases."""
    head, *phases = OWN_TASKS.read_text().split("[[phases]]\n")
    chosen = [text for name in names for text in phases if text.startswith(f'name = "{name}"\n')]
    return "[[phases]]\n".join([head, *chosen])


@pytest.fixture(
    scope="module",
    params=[("bert", "fsdp2"), ("roberta", "fsdp2"), ("xlnet", "fsdp2"), ("xlnet", "zero3")],
    ids=lambda param: "-".join(param),
)
def family(request: pytest.FixtureRequest, data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(*request.param, data, cache, tmp_path_factory.mktemp("family"))


@pytest.mark.distributed
def test_a_run_of_own_tasks_ends_with_their_gains(
    family: Family, world: World, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = family.ended.output
    assert f"fp32, {family.attention} attention ->" in said
    assert read_json(family.folder / "environment.json")["attention"].startswith(family.attention)
    assert "topics: accuracy in percent" in said and "similarity: pearson" in said
    assert said.count("gain of") == sum(bool(phase.baseline) for phase in family.phases)

    place = "last" if family.name == "xlnet" else "first"
    for phase in family.phases:
        manifest = read_manifest(family.folder / "phases" / phase.name / "result")
        assert [head["pooling"] for head in manifest.facts["heads"]] == [place]
        found = family.scores(phase)
        if phase.task == "similarity":
            assert all(-100 <= found[name] <= 100 for name in ("pearson", "spearman"))
        else:
            assert 0 <= found["accuracy"] <= 100
            assert found["chance"] == pytest.approx(100 / (3 if phase.task == "topics" else 2))
        # 70 % of 60 rows are six batches of seven.
        assert read_json(family.folder / "phases" / phase.name / "phase.json")["num_steps"] == 6
        assert found["num_items"] == 18

    before = snapshot(family.folder)
    capfd.readouterr()
    run(load_run(family.run_file, [*family.settings, f"output={family.folder}", f"data.cache={cache}"]))
    assert "this run was finished before" in capfd.readouterr().err
    assert snapshot(family.folder) == before


OTHER_KINDS = """
[model]
name = "the folder of a tiny model"
max_length = 32
[engine]
name = "fsdp2"
[logging]
progress = "none"
tensorboard = false

[tasks.exam]
kind = "multiple_choice"
labels = ["A", "B", "C"]
languages = ["en"]
[[tasks.exam.files]]
split = "train"
pattern = "exam.jsonl"
format = "jsonl"
text = ["story", "ask"]
choices = ["a", "b", "c"]
label = "right"
[[tasks.exam.files]]
split = "test"
pattern = "exam.jsonl"
format = "jsonl"
text = ["story", "ask"]
choices = ["a", "b", "c"]
label = "right"

[tasks.manuals]
kind = "span"
languages = ["en"]
stride = 8
split_shares = { train = 0.7, test = 0.3 }
[[tasks.manuals.files]]
split = "train"
pattern = "manuals.tsv"
header = true
id = "id"
text = "question"
text_pair = "passage"
answers = "answer"

[tasks.places]
kind = "tagging"
labels = ["O", "B-LOC", "I-LOC"]
languages = ["en", "de"]
files = [
    { split = "train", pattern = "places-{language}.txt", format = "words" },
    { split = "test", pattern = "places-{language}.txt", format = "words" },
]

[[phases]]
name = "exam"
task = "exam"
steps = 3
batch_size = 4
learning_rate = 1e-3
evaluate = ["exam"]
[[phases]]
name = "manuals"
parent = "exam"
task = "manuals"
steps = 3
batch_size = 4
learning_rate = 1e-3
evaluate = ["manuals"]
[[phases]]
name = "places"
parent = "manuals"
task = "places"
steps = 3
batch_size = 4
learning_rate = 1e-3
evaluate = ["places"]
"""


@pytest.fixture
def other_data(tmp_path: Path) -> Path:
    """Files of the other kinds."""
    root = tmp_path / "data"
    root.mkdir()
    sentences = [text for _, _, text in _sentences()]
    items = [
        {"story": text, "ask": "what is it?", "a": "a thing", "b": "a bank", "c": "a ball", "right": "ABC"[number % 3]}
        for number, text in enumerate(sentences)
    ]
    (root / "exam.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    rows = [f"q{number}\twhich number?\t{text}\tnumber {number}\n" for number, text in enumerate(sentences)]
    (root / "manuals.tsv").write_text("id\tquestion\tpassage\tanswer\n" + "".join(rows))
    for language in ("en", "de"):
        (root / f"places-{language}.txt").write_text("we O\nsaw O\nNew B-LOC\nYork I-LOC\n\nParis B-LOC\n\n" * 10)
    return root


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_model("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def settings(tmp_path: Path, cache: Path, other_data: Path, tiny_bert: Path) -> list[str]:
    """Where things lie in a run of the other kinds."""
    (tmp_path / "run.toml").write_text(OTHER_KINDS)
    return [f"output={tmp_path / 'out'}", f"data.cache={cache}", f"data.root={other_data}", f"model.name={tiny_bert}"]


Start = Callable[..., None]


@pytest.fixture
def go(world: World, tmp_path: Path, settings: list[str]) -> Start:
    """Carry out the run of the other kinds in this process."""

    def go(*more: str) -> None:
        run(load_run(tmp_path / "run.toml", [*settings, *more]))

    return go


def test_own_tasks_of_other_kinds_are_trained_and_scored(go: Start, tmp_path: Path) -> None:
    go()
    found = {
        name: read_json(tmp_path / "out" / "phases" / name / "scores.json")["scores"][name]
        for name in ("exam", "manuals", "places")
    }
    assert {"accuracy", "chance"} <= set(found["exam"]["en"])
    assert {"f1", "exact_match"} <= set(found["manuals"]["en"])
    assert set(found["places"]) == {"en", "de"} and "f1" in found["places"]["de"]


def test_a_missing_column_is_named_with_the_nearest_one(go: Start, other_data: Path) -> None:
    message = refused(go, "tasks.manuals.files.0.text_pair=pasage")
    assert message == f"{other_data}/manuals.tsv: no column 'pasage'; did you mean 'passage'?"


def test_an_unknown_label_is_named_with_its_row(go: Start, other_data: Path) -> None:
    with open(other_data / "exam.jsonl", "a") as file:
        file.write('{"story": "x", "ask": "y", "a": "1", "b": "2", "c": "3", "right": "D"}\n')
    message = refused(go)
    assert message.startswith(f"{other_data}/exam.jsonl, line 61: label 'D' ")
    assert "mend the row, or declare it in [tasks.exam]" in message


def test_an_unknown_tag_is_named_with_its_word(go: Start, other_data: Path) -> None:
    path = other_data / "places-en.txt"
    path.write_text(path.read_text() + "Ada B-PER\n")
    message = refused(go)
    assert message.startswith(f"{path}, line 71: tag 'B-PER'") and "'Ada'" in message


def test_an_answer_that_is_not_in_its_passage_is_named_with_its_row(go: Start, other_data: Path) -> None:
    with open(other_data / "manuals.tsv", "a") as file:
        file.write("q60\twhich number?\tthe last thing\tnumber 60\n")
    message = refused(go)
    place = f"{other_data}/manuals.tsv, line 62, question 'q60'"
    assert message == f"{place}: the answer 'number 60' is not in the passage; mend the file, or drop the question"


def test_a_language_that_the_task_does_not_have_is_refused(go: Start) -> None:
    message = refused(go, "phases.exam.languages=['fr']")
    assert message == "task 'exam' has no language 'fr'; valid: en"


def test_broken_utf_8_ends_the_real_command_with_one_line(
    tmp_path: Path, other_data: Path, settings: list[str]
) -> None:
    lines = (other_data / "exam.jsonl").read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"a bank", b"a b\xe4nk")
    (other_data / "exam.jsonl").write_bytes(b"".join(lines))
    command = [*launcher("python"), TRAIN, "--run", str(tmp_path / "run.toml")]
    ended = start([*command, *(part for setting in settings for part in ("--set", setting))])
    assert ended.code == 2
    assert ended.output.strip().splitlines()[-1].startswith(f"error: {other_data}/exam.jsonl, line 5: ")
    assert ended.output.count("error: ") == 1 and "Traceback" not in ended.output


def test_declarations_in_the_page_on_data_are_ones_that_can_be_loaded() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    assert len(blocks) > 10
    for block in blocks:
        load_catalogue(tomllib.loads(block)["tasks"])
