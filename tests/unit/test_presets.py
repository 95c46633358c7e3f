"""Presets: the hyper-parameters of the benchmarks' own scripts, where a phase says nothing else."""

import re
from pathlib import Path

import pytest

from xlt_scale.config import PhaseOptions, load_run
from xlt_scale.errors import UserError
from xlt_scale.presets import PRESETS
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.training.schedule import learning_rate_at

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mixtures.md"


def read(tmp_path: Path, phase: str, *settings: str) -> PhaseOptions:
    """The only phase of a run file."""
    path = tmp_path / "run.toml"
    path.write_text(f'[model]\nsize = "micro-small"\ntokenizer = "micro"\n[[phases]]\nname = "p"\n{phase}')
    return load_run(path, list(settings)).phases[0]


def refusal(tmp_path: Path, phase: str) -> str:
    with pytest.raises(UserError) as error:
        read(tmp_path, phase)
    message = str(error.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path}/run.toml: ")


def test_a_preset_says_what_the_phase_does_not(tmp_path: Path) -> None:
    phase = read(tmp_path, 'task = "mnli"\npreset = "jiant"')
    assert (phase.epochs, phase.batch_size, phase.max_length, phase.learning_rate) == (2.0, 32, 256, 1e-5)
    assert (phase.warmup, phase.gradient_clipping, phase.epsilon) == (0.1, 1.0, 1e-8)


def test_a_presets_task_goes_before_what_holds_for_all(tmp_path: Path) -> None:
    assert read(tmp_path, 'task = "pawsx"\npreset = "xtreme"').weight_decay == 0.0
    squad = read(tmp_path, 'task = "squad"\npreset = "xtreme"')
    assert (squad.weight_decay, squad.warmup, squad.warmup_steps) == (1e-4, 0.0, 500)


def test_what_the_phase_says_stays(tmp_path: Path) -> None:
    phase = read(tmp_path, 'task = "mnli"\npreset = "jiant"\nlearning_rate = 3e-6\nwarmup = 0.0')
    assert (phase.learning_rate, phase.warmup, phase.max_length) == (3e-6, 0.0, 256)


def test_what_is_set_on_the_command_line_stays_too(tmp_path: Path) -> None:
    phase = read(tmp_path, 'task = "mnli"\npreset = "jiant"', "phases.p.batch_size=64")
    assert (phase.batch_size, phase.max_length) == (64, 256)


def test_a_preset_may_itself_be_set_on_the_command_line(tmp_path: Path) -> None:
    assert read(tmp_path, 'task = "mnli"\nsteps = 5', "phases.p.preset=xtreme").learning_rate == 3e-5


def test_steps_of_the_phase_stand_in_for_a_presets_epochs(tmp_path: Path) -> None:
    phase = read(tmp_path, 'task = "mnli"\npreset = "jiant"\nsteps = 100')
    assert (phase.steps, phase.epochs) == (100, 0.0)


def test_a_share_of_warm_up_of_the_phase_stands_in_for_a_presets_steps_of_it(tmp_path: Path) -> None:
    phase = read(tmp_path, 'task = "squad"\npreset = "xtreme"\nwarmup = 0.06')
    assert (phase.warmup, phase.warmup_steps) == (0.06, 0)


def test_a_joint_task_may_be_added(tmp_path: Path) -> None:
    phase = read(tmp_path, 'task = "mnli"\npreset = "jiant"\njoint = { mlm = 0.5 }\nlearning_rate = 5e-6')
    assert (phase.epochs, phase.learning_rate, phase.tasks) == (2.0, 5e-6, ["mnli", "mlm"])


def test_without_a_preset_nothing_is_filled_in(tmp_path: Path) -> None:
    phase = read(tmp_path, 'task = "mnli"\nsteps = 5')
    assert (phase.max_length, phase.learning_rate) == (0, PhaseOptions.model_fields["learning_rate"].default)


def test_a_run_with_a_preset_can_be_read_again_as_it_was_resolved(tmp_path: Path) -> None:
    read(tmp_path, 'task = "squad"\npreset = "xtreme"\nsteps = 100')
    run = load_run(tmp_path / "run.toml")
    (tmp_path / "resolved.toml").write_text(run.to_toml())
    assert load_run(tmp_path / "resolved.toml") == run


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ('task = "mnli"\npreset = "jaint"', "phase 'p': preset 'jaint' is unknown; did you mean 'jiant'?"),
        (
            'task = "siqa"\npreset = "jiant"',
            "phase 'p': preset 'jiant' says nothing about task 'siqa', but of mnli, panx, pawsx, squad, tydiqa, udpos; "
            "remove it",
        ),
        (
            'mixture = { mnli = 1 }\npreset = "jiant"',
            "phase 'p': preset 'jiant' says nothing about a phase without `task`, but of "
            "mnli, panx, pawsx, squad, tydiqa, udpos; remove it",
        ),
        ('task = ["mnli"]\npreset = "jiant"', "phases.0.task = ['mnli']: input should be a valid string"),
        ('task = "mnli"\npreset = ["jiant"]', "phases.0.preset = ['jiant']: input should be a valid string"),
    ],
)
def test_a_preset_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, phase: str, message: str) -> None:
    assert refusal(tmp_path, phase) == message


def test_presets_are_of_tasks_and_options_that_there_are() -> None:
    catalogue = load_catalogue({})
    for common, by_task in PRESETS.values():
        assert set(common) <= set(PhaseOptions.model_fields)
        for task, fields in by_task.items():
            assert task in catalogue and set(fields) <= set(PhaseOptions.model_fields)
            PhaseOptions(name="p", task=task, **common | fields)


def test_the_page_on_mixtures_has_every_presets_numbers() -> None:
    rows = re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    cells = {name: row[1:] for row in rows for name in re.findall("`([a-z-]+)`", row[0])}
    for column, (_, by_task) in enumerate(PRESETS.values()):
        for task, fields in by_task.items():
            numbers = [float(number) for number in re.findall(r"\d[\d.e-]*", cells[task][column])]
            wanted = [fields[name] for name in ("epochs", "batch_size", "max_length", "learning_rate")]
            assert numbers[:4] == wanted, task


def rates(num_steps: int, **options: float) -> list[float]:
    phase = PhaseOptions(name="p", task="t", steps=num_steps, learning_rate=1.0, **options)  # type: ignore[arg-type]
    return [learning_rate_at(step, num_steps, phase) for step in range(num_steps)]


def test_a_warm_up_may_be_said_in_steps_in_place_of_a_share() -> None:
    assert rates(8, warmup_steps=4, warmup=0.0) == rates(8, warmup=0.5)
    assert rates(8, warmup_steps=4, warmup=0.1) == rates(8, warmup=0.5)


def test_a_warm_up_of_more_steps_than_there_are_only_rises() -> None:
    assert rates(3, warmup_steps=500) == rates(3, warmup=1.0)
