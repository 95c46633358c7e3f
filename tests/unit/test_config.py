"""Run options: what a run file may say, what `--set` changes, and how a mistake is answered."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from xlt_scale.config import PhaseOptions, RunOptions, load_run
from xlt_scale.config_files import read_toml
from xlt_scale.errors import UserError, nearest

RUN_FILES = Path(__file__).parents[2] / "launch" / "runs"
RUN = """
output = "runs/one"
[model]
size = "micro-small"
tokenizer = "micro"
[[phases]]
name = "pretrain"
task = "micro-mlm"
steps = 100
[[phases]]
name = "target"
parent = "pretrain"
mixture = { micro-nli = 1, micro-topic = 2.5 }
epochs = 2
evaluate = ["micro-nli"]
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


def refusal(path: Path, *settings: str) -> str:
    """The message with which a run file is refused; it must be one line."""
    with pytest.raises(UserError) as error:
        load_run(path, list(settings))
    message = str(error.value)
    assert "\n" not in message
    return message


def refusal_of(path: Path, old: str, new: str) -> str:
    """What is said of the run file with one text replaced; it must begin with the file's path."""
    assert old in RUN
    path.write_text(RUN.replace(old, new, 1))
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# What a run file says


def test_what_is_not_said_has_a_default(run_file: Path) -> None:
    run = load_run(run_file)
    assert run.seed == 1
    assert run.engine.name == "zero3"
    assert run.phases[0].batch_size == 32
    assert run.phases[0].retrieval_depth == 7 / 12


def test_the_tasks_of_a_mixture_are_in_a_fixed_order(run_file: Path) -> None:
    assert load_run(run_file).phases[1].tasks == ["micro-nli", "micro-topic"]


def test_a_phase_may_only_score_its_parent(run_file: Path) -> None:
    run_file.write_text(RUN + '[[phases]]\nname = "score"\nparent = "target"\nevaluate = ["micro-topic"]\n')
    phase = load_run(run_file).phases[2]
    assert not phase.trains
    assert phase.tasks == []


def test_the_parent_may_be_a_folder_of_another_run(run_file: Path) -> None:
    for folder in ("../other/phases/pretrain", "/runs/other/phases/pretrain", "./elsewhere"):
        assert load_run(run_file, [f"phases.pretrain.parent={folder}"]).phases[0].parent == folder


def test_the_resolved_options_can_be_loaded_again(run_file: Path, tmp_path: Path) -> None:
    run = load_run(
        run_file,
        [
            "model.architecture.hidden_size=96",
            "model.dropout=0.0",
            "phases.target.betas=[0.9, 0.98]",
            "phases.target.seed=7",
            "tasks.micro-nli.languages=['qen']",
            'output="runs/with \\"quotes\\" and ünïcode"',
        ],
    )
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(run.to_toml(), encoding="utf-8")
    assert load_run(resolved) == run


def test_the_resolved_options_spell_out_every_default(run_file: Path) -> None:
    table = tomllib.loads(load_run(run_file).to_toml())
    optional = {"seed", "adapter"}  # no seed of a phase's own means the run's, no adapter that all weights are trained
    assert set(table["phases"][0]) == set(PhaseOptions.model_fields) - optional
    assert set(table) == set(RunOptions.model_fields)


def test_adapters_are_not_trained_without_masters(run_file: Path) -> None:
    settings = ("engine.precision='bf16_stochastic'", "phases.0.adapter.rank=4")
    assert "trains an adapter, which is small; use 'bf16'" in refusal(run_file, *settings)


def test_values_are_checked_when_they_are_set_later(run_file: Path) -> None:
    run = load_run(run_file)
    with pytest.raises(ValidationError):
        run.phases[0].steps = -1
    with pytest.raises(ValidationError):
        run.phases[0].unheard_of = 1  # type: ignore[attr-defined]


# --set


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed=5", 5),
        ("seed = 5", 5),
        ("seed=5 # a comment", 5),
    ],
)
def test_a_setting_replaces_a_value(run_file: Path, setting: str, value: int) -> None:
    assert load_run(run_file, [setting]).seed == value


def test_the_last_of_two_settings_counts(run_file: Path) -> None:
    assert load_run(run_file, ["seed=5", "seed=6"]).seed == 6


def test_a_setting_makes_the_table_that_is_not_there(run_file: Path) -> None:
    assert load_run(run_file, ["engine.name=fsdp2"]).engine.name == "fsdp2"


def test_a_phase_is_addressed_by_name(run_file: Path) -> None:
    assert load_run(run_file, ["phases.target.batch_size=8"]).phases[1].batch_size == 8


def test_a_phase_is_addressed_by_number(run_file: Path) -> None:
    assert load_run(run_file, ["phases.1.batch_size=8"]).phases[1].batch_size == 8


def test_a_phase_whose_name_has_a_dot_is_addressed_in_quotes(run_file: Path) -> None:
    run_file.write_text(RUN.replace("pretrain", "lr-0.01"))
    assert load_run(run_file, ['phases."lr-0.01".steps=3']).phases[0].steps == 3


def test_an_item_of_a_list_is_addressed_by_number(run_file: Path) -> None:
    settings = ["phases.target.evaluate=['micro-nli', 'micro-topic']", "phases.target.evaluate.1=micro-retrieval"]
    assert load_run(run_file, settings).phases[1].evaluate == ["micro-nli", "micro-retrieval"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("runs/two", "runs/two"),
        ('"3"', "3"),
        ("with = sign", "with = sign"),
        ("", ""),
        ("C:\\data", "C:\\data"),
        ("[not closed", "[not closed"),
        ("a\nb = 1", "a\nb = 1"),
    ],
)
def test_what_is_not_toml_is_a_string(run_file: Path, text: str, value: str) -> None:
    assert load_run(run_file, [f"output={text}"]).output == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed", "--set 'seed': write key.path=value"),
        ("=5", "--set '=5': write key.path=value"),
        ("engine..name=x", "--set 'engine..name=x': write key.path=value"),
        ("output.x=1", "--set output.x: output is a value, not a table"),
        ("phases.steps=1", "--set phases.steps: name one of the items, as in phases.NAME.steps=..."),
        ("phases.targt.steps=1", "--set phases.targt: no such item; did you mean 'target'?"),
        ("phases.2.steps=1", "--set phases.2: no such item; valid: pretrain, target"),
        ("phases.target.evaluate.1=x", "--set phases.target.evaluate.1: no such item; the list has 1, counted from 0"),
    ],
)
def test_a_broken_setting_is_named(run_file: Path, setting: str, message: str) -> None:
    assert refusal(run_file, setting) == message


@pytest.mark.parametrize("name", ["['a']", "5"])
def test_a_phase_name_of_the_wrong_type_does_not_stop_the_search(run_file: Path, name: str) -> None:
    run_file.write_text(RUN.replace('name = "pretrain"', f"name = {name}"))
    assert refusal(run_file, "phases.zzz.steps=1") == "--set phases.zzz: no such item; valid: target"


def test_a_setting_with_an_unknown_key_is_answered_as_in_the_file(run_file: Path) -> None:
    message = refusal(run_file, "phases.target.batchsize=8")
    assert message == f"{run_file}: unknown key 'phases.1.batchsize'; did you mean 'batch_size'?"


# Mistakes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("output =", "outptu =", "unknown key 'outptu'; did you mean 'output'?"),
        ("[model]", "[modl]", "unknown key 'modl'; did you mean 'model'?"),
        ("size =", "siz =", "unknown key 'model.siz'; did you mean 'size'?"),
        ("steps =", "stepps =", "unknown key 'phases.0.stepps'; did you mean 'steps'?"),
        ('name = "target"', 'nam = "target"', "unknown key 'phases.1.nam'; did you mean 'name'?"),
        ("[model]", "[logging]\nevry = 5\n[model]", "unknown key 'logging.evry'; did you mean 'every'?"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_name(run_file: Path, old: str, new: str, message: str) -> None:
    assert refusal_of(run_file, old, new) == message


def test_a_key_like_no_other_is_answered_with_the_valid_names(run_file: Path) -> None:
    message = refusal_of(run_file, "[model]", "[logging]\nzzz = 5\n[model]")
    assert message == "unknown key 'logging.zzz'; valid: every, progress, tensorboard"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 100", 'steps = "100"', "phases.0.steps = '100': input should be a valid integer"),
        ("steps = 100", "steps = true", "phases.0.steps = True: input should be a valid integer"),
        ("steps = 100", "steps = 1.5", "phases.0.steps = 1.5: input should be a valid integer"),
        ("steps = 100", "steps = -1", "phases.0.steps = -1: input should be greater than or equal to 0"),
        ("steps = 100", "learning_rate = nan", "phases.0.learning_rate = nan: input should be a finite number"),
        ("steps = 100", "weight_decay = inf", "phases.0.weight_decay = inf: input should be a finite number"),
        ("steps = 100", "betas = [0.9, 1.0]", "phases.0.betas.1 = 1.0: input should be less than 1"),
        ("micro-topic = 2.5", "micro-topic = 0", "phases.1.mixture.micro-topic = 0: input should be greater than 0"),
        ('evaluate = ["micro-nli"]', 'evaluate = "x"', "phases.1.evaluate = 'x': input should be a valid list"),
        ("[model]", "engine = 3\n[model]", "engine = 3: it should be a table"),
        ("[model]", "[tasks]\nsnli = 3\n[model]", "tasks.snli = 3: it should be a table"),
        (
            "[model]",
            '[engine]\nname = "zero4"\n[model]',
            "engine.name = 'zero4': input should be 'zero3' or 'fsdp2'",
        ),
        (
            'name = "pretrain"',
            'name = "pre/train"',
            "phases.0.name = 'pre/train': string should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$'",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_key(run_file: Path, old: str, new: str, message: str) -> None:
    assert refusal_of(run_file, old, new) == message


def test_a_missing_key_is_named(run_file: Path) -> None:
    assert refusal_of(run_file, 'name = "target"\n', "") == "key 'phases.1.name' is missing"


def test_a_run_without_phases_is_refused(run_file: Path) -> None:
    run_file.write_text(RUN.split("[[phases]]")[0])
    assert refusal(run_file) == f"{run_file}: key 'phases' is missing"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'size = "micro-small"\n',
            "",
            "give model.name (pre-trained), or model.size or model.architecture (from scratch)",
        ),
        (
            "size =",
            'name = "xlm-roberta-base"\nsize =',
            "model.name (pre-trained) and model.size / model.architecture (from scratch) exclude",
        ),
        (
            'tokenizer = "micro"\n',
            "",
            "a model from scratch needs model.tokenizer (a hub name, a folder, or 'micro')",
        ),
        ("mixture =", 'task = "snli"\nmixture =', "phase 'target' has both task and mixture: keep one of them"),
        ("steps = 100", "", "phase 'pretrain' trains ['micro-mlm']: give steps or epochs"),
        ('task = "micro-mlm"', "", "phase 'pretrain' does nothing: give task, mixture or evaluate"),
        (
            "steps = 100",
            'steps = 100\nkeep = "best"',
            "phase 'pretrain' has keep = 'best': set evaluate_every to the steps between scores",
        ),
        ('name = "target"', 'name = "pretrain"', "two phases are named 'pretrain': rename one"),
        (
            'parent = "pretrain"',
            'parent = "pretrian"',
            "phase 'target': parent 'pretrian' is not an earlier phase; did you mean 'pretrain'?",
        ),
        (
            'parent = "pretrain"',
            'parent = "target"',
            "phase 'target': parent 'target' is not an earlier phase; valid: pretrain",
        ),
        (
            "steps = 100",
            'steps = 100\nbaseline = "target"',
            "phase 'pretrain': baseline 'target', but no phase comes before it",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(run_file: Path, old: str, new: str, message: str) -> None:
    assert refusal_of(run_file, old, new) == message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    assert refusal(path) == f"{path}: no such file; give the path of a TOML file"


def test_a_folder_is_no_run_file(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: no such file; give the path of a TOML file"


@pytest.mark.parametrize("content", ["output = ", "[model\n", 'a = "\n"', "a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_named_with_the_place(write: Callable[[str, str], Path], content: str) -> None:
    path = write("run.toml", content)
    message = refusal(path)
    assert message.startswith(f"{path}: not valid TOML: ")
    assert "line" in message or "document" in message


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b'output = "\xff"\n')
    assert refusal(path).startswith(f"{path}: not valid TOML: ")


def test_reading_a_table_gives_plain_values(write: Callable[[str, str], Path]) -> None:
    assert read_toml(write("any.toml", "a = [1, 2]\n[b]\nc = 'ü'\n")) == {"a": [1, 2], "b": {"c": "ü"}}


# The clause that helps


@pytest.mark.parametrize(
    ("name", "valid", "clause"),
    [
        ("xnil", ["snli", "xnli", "tatoeba"], "did you mean 'xnli'?"),
        ("zzz", ["b", "a"], "valid: a, b"),
        ("zzz", [], "there is none"),
        ("zzz", [f"name-{i}" for i in range(26)], "26 names are valid"),
    ],
)
def test_a_misspelt_name_gets_a_clause_that_helps(name: str, valid: list[str], clause: str) -> None:
    assert nearest(name, valid) == clause


@pytest.mark.parametrize("path", sorted(RUN_FILES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_ready_made_run_file_is_valid(path: Path) -> None:
    assert load_run(path).phases
