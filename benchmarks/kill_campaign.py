"""Kill training at random moments, start it again, and see that nothing is lost but the steps since the last save.

Real ranks with real files are killed by SIGKILL while they start, train, save and score, under both engines, at one
and two ranks, with synchronous and asynchronous saving; sometimes only one of two ranks. Each start has to go on from
the newest complete checkpoint, and each run has to end in the same bits as one that nobody disturbed. To make hundreds
of starts affordable, ranks are forked from this process, which has imported everything heavy.

    python benchmarks/kill_campaign.py --kills 200 --seed 1 --report benchmarks/kill_campaign_cpu_DATE.md
"""

import argparse
import itertools
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

# Before anything imports torch; the ranks inherit it.
os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")

from kill_campaign_ranks import Ranks, start_ranks
from kill_campaign_traces import Left, activity, find_saves, fingerprint, look, resumed_steps

SAVE_EVERY = 3
SECONDS_PER_START = 150.0
SECONDS_FOR_SURVIVORS = 20.0
ACTIVITIES = ("start-up", "training", "saving", "scoring")

RUN = """
seed = 1
[model]
size = "micro-small"
tokenizer = "micro"
max_length = 64
dropout = 0.1
[engine]
repeatable = true
max_tokens_per_micro_batch = 512
[checkpoints]
every = 3
minutes = 0.0
[logging]
every = 1
tensorboard = false
progress = "plain"
[[phases]]
name = "pretrain"
mixture = { micro-mlm = 0.4, micro-tlm = 0.6 }
max_examples = 40
steps = 23
batch_size = 8
learning_rate = 2e-3
[[phases]]
name = "target"
parent = "pretrain"
task = "micro-valence"
steps = 8
batch_size = 8
learning_rate = 1e-3
evaluate_every = 4
keep = "best"
evaluation_examples = 32
evaluate = ["micro-valence"]
evaluate_languages = ["qen", "qea"]
"""


@dataclass(frozen=True)
class Case:
    """One way of running."""

    engine: str
    world_size: int
    asynchronous: bool

    @property
    def name(self) -> str:
        """Also what `--cases` takes."""
        return f"{self.engine}:{self.world_size}:{'async' if self.asynchronous else 'sync'}"

    @property
    def most_steps_lost(self) -> int:
        """A save begins after its step's row is written; an asynchronous one has ended when the next begins."""
        return SAVE_EVERY * (2 if self.asynchronous else 1)

    @property
    def settings(self) -> list[str]:
        return [f"engine.name={self.engine}", f"checkpoints.asynchronous={str(self.asynchronous).lower()}"]


CASES = [Case(*values) for values in itertools.product(("zero3", "fsdp2"), (1, 2), (False, True))]


@dataclass
class Tally:
    """What was seen in one case."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ACTIVITIES, 0))
    kills_of_one_rank: int = 0
    slowest_survivor: float = 0.0
    ended_survivors: int = 0
    restarts: int = 0
    most_steps_lost: int = 0
    finished: int = 0
    equal: int = 0

    @property
    def num_kills(self) -> int:
        return sum(self.kills.values())


@dataclass(frozen=True)
class Plan:
    """When a start is to be killed.

    Attributes:
        after: seconds after the start, or after what is waited for.
        save: wait until that many saves have begun in this start; 0 to wait for none.
    """

    after: float
    save: int = 0


class Campaign:
    """Kills in all cases, one start after the other.

    Args:
        folder: for runs, logs and data.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._run_file = folder / "run.toml"
        self._run_file.write_text(RUN)
        self._references: dict[tuple[str, int], object] = {}
        self._seconds: dict[tuple[str, int], float] = {}
        self.failures: list[str] = []

    def carry_out(self, cases: Sequence[Case], num_kills: int) -> dict[Case, Tally]:
        """As many kills as asked for, spread evenly over the cases."""
        tallies = {case: Tally() for case in cases}
        for number, (case, tally) in enumerate(tallies.items()):
            wanted = num_kills // len(cases) + (number < num_kills % len(cases))
            self._ensure_reference(case)
            for life in itertools.count():
                if tally.num_kills >= wanted:
                    break
                self._live(case, tally, wanted, self._folder / f"{case.name.replace(':', '-')}-{life}")
            print(f"{case.name}: {tally}", file=sys.stderr, flush=True)
        return tallies

    def _ensure_reference(self, case: Case) -> None:
        """The end of a run that nobody disturbs; saving in the background must not change it either."""
        key = (case.engine, case.world_size)
        if key in self._references:
            return
        # The first run of all also makes the data that the others find.
        for attempt in ("undisturbed",) if self._references else ("first", "undisturbed"):
            folder = self._folder / f"{case.engine}-{case.world_size}-{attempt}"
            began = time.monotonic()
            ranks = self._start(case, folder)
            if not ranks.wait(SECONDS_PER_START) or any(ranks.codes.values()):
                ranks.kill()
                raise RuntimeError(f"the undisturbed run of {case.name} failed:\n{ranks.log_text()}")
            self._seconds[key] = time.monotonic() - began
        self._references[key] = fingerprint(folder)

    def _live(self, case: Case, tally: Tally, wanted: int, folder: Path) -> None:
        """One run from its first start to its end, killed in between."""
        for number in itertools.count():
            left = look(folder)
            tally.restarts += number > 0
            ranks = self._start(case, folder)
            if tally.num_kills >= wanted:
                killed = False
                if not ranks.wait(SECONDS_PER_START):
                    self._fail(f"{case.name}: a start did not end", ranks, folder)
                    return
            else:
                killed = self._disturb(case, tally, ranks, folder)
            ranks.kill()
            if not self._goes_on(case, tally, left, ranks, folder):
                return
            if not killed:
                break
        if any(ranks.codes.values()):
            self._fail(f"{case.name}: a start failed though nobody killed it", ranks, folder)
            return
        tally.finished += 1
        if fingerprint(folder) == self._references[case.engine, case.world_size]:
            tally.equal += 1
            shutil.rmtree(folder)
        else:
            self._fail(f"{case.name}: the end is not that of the undisturbed run", ranks, folder)

    def _disturb(self, case: Case, tally: Tally, ranks: Ranks, folder: Path) -> bool:
        """Kill at a random moment; False when the run ended first."""
        remains = find_saves(folder)
        if not _wait_for(self._plan(case), ranks, folder, remains):
            return False
        victims = list(range(case.world_size))
        if case.world_size > 1 and self._random.random() < 0.3:
            victims = [self._random.choice(victims)]
        what = activity(folder, ranks.log_text())
        ranks.kill(victims)
        if find_saves(folder) - remains:
            what = "saving"
        tally.kills[what] += 1
        if len(victims) < case.world_size:
            tally.kills_of_one_rank += 1
            began = time.monotonic()
            if ranks.wait(SECONDS_FOR_SURVIVORS):
                tally.slowest_survivor = max(tally.slowest_survivor, time.monotonic() - began)
            elif what == "start-up":
                # One that waits for rank 0 to be there waits on: its launcher ends it, as the caller does here.
                tally.ended_survivors += 1
            else:
                self._fail(f"{case.name}: a rank did not end after another was killed while {what}", ranks, folder)
        return True

    def _plan(self, case: Case) -> Plan:
        """Half of the kills fall anywhere, half into the beginning, middle or end of a save."""
        if self._random.random() < 0.5:
            return Plan(self._random.uniform(0.0, self._seconds[case.engine, case.world_size]))
        return Plan(self._random.choice([0.0, 0.003, 0.03]) * self._random.random(), save=self._random.randint(1, 8))

    def _goes_on(self, case: Case, tally: Tally, left: Left, ranks: Ranks, folder: Path) -> bool:
        """Whether this start took up what the one before had left."""
        for phase, step in resumed_steps(ranks.log_text()).items():
            if phase in left.finished:
                self._fail(f"{case.name}: phase {phase} was finished and is trained again", ranks, folder)
                return False
            if phase != left.phase:
                continue
            if step != left.saved_step:
                what = f"went on after step {step}, though step {left.saved_step} was saved"
                self._fail(f"{case.name}: phase {phase} {what}", ranks, folder)
                return False
            lost = left.last_step - step
            tally.most_steps_lost = max(tally.most_steps_lost, lost)
            if lost > case.most_steps_lost:
                self._fail(f"{case.name}: {lost} steps of phase {phase} were lost", ranks, folder)
                return False
        return True

    def _start(self, case: Case, folder: Path) -> Ranks:
        folder.mkdir(exist_ok=True)
        number = len(list(self._folder.glob(f"{folder.name}.log-*")))
        settings = [f"output={folder}", f"data.cache={self._folder / 'cache'}", *case.settings]
        return start_ranks(self._run_file, settings, case.world_size, self._folder / f"{folder.name}.log-{number:03d}")

    def _fail(self, what: str, ranks: Ranks, folder: Path) -> None:
        self.failures.append(f"{what}; see {folder} and {ranks.log}")
        print(f"FAILED {self.failures[-1]}\n{ranks.log_text()[-3000:]}", file=sys.stderr, flush=True)


def _wait_for(plan: Plan, ranks: Ranks, folder: Path, remains: set[Path]) -> bool:
    """Until the moment of a kill has come; False when the run ended before.

    Args:
        remains: saves of earlier starts.
    """
    seen: set[Path] = set()
    while plan.save > len(seen):
        if ranks.have_ended():
            return False
        seen |= find_saves(folder) - remains
        time.sleep(0.0005)
    moment = time.monotonic() + plan.after
    while time.monotonic() < moment:
        if ranks.have_ended():
            return False
        time.sleep(min(0.005, max(0.0, moment - time.monotonic())))
    return not ranks.have_ended()


def report(tallies: dict[Case, Tally], failures: Sequence[str], seconds: float) -> Iterator[str]:
    """The lines of the report, in Markdown."""
    kills = sum(tally.num_kills for tally in tallies.values())
    lives = sum(tally.finished for tally in tallies.values())
    equal = sum(tally.equal for tally in tallies.values())
    yield f"# {kills} kills at random moments of training, saving and scoring"
    yield ""
    yield f"    {shlex.join(['python', *sys.argv])}"
    yield ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed", "transformers"))
    yield f"Python {sys.version.split()[0]}, {packages}; {os.cpu_count()} CPU cores; {seconds / 60:.0f} minutes."
    yield ""
    yield (
        f"{lives} runs were trained to their end through these kills; {equal} of them ended in the same bits as an "
        f"undisturbed run of the same engine and world size: weights, scores, and the loss of every step. A checkpoint "
        f"is saved every {SAVE_EVERY} steps."
    )
    yield ""
    columns = ("engine, ranks, saving", "kills", *ACTIVITIES, "of one rank", "the other ended within", "restarts")
    yield f"| {' | '.join((*columns, 'most steps lost (allowed)', 'final states equal'))} |"
    yield f"|---{'|---:' * (len(columns) + 1)}|"
    for case, tally in tallies.items():
        cells = [case.name.replace(":", ", "), tally.num_kills, *tally.kills.values(), tally.kills_of_one_rank]
        cells += [f"{tally.slowest_survivor:.1f} s" if tally.kills_of_one_rank else "", tally.restarts]
        cells += [f"{tally.most_steps_lost} ({case.most_steps_lost})", f"{tally.equal} of {tally.finished}"]
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    ended = sum(tally.ended_survivors for tally in tallies.values())
    if ended:
        yield (
            f"{ended} of the ranks whose peer was killed in start-up waited for it until they were ended from outside, "
            "as launchers do."
        )
        yield ""
    yield "Failures: none." if not failures else "Failures:\n\n" + "\n".join(f"- {failure}" for failure in failures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES], metavar="ENGINE:RANKS:SAVING")
    parser.add_argument("--report", type=Path, help="also write the report to this file")
    parser.add_argument("--folder", type=Path, help="keep runs and logs here; default: a folder that is removed")
    arguments = parser.parse_args()
    cases = [case for name in arguments.cases for case in CASES if case.name == name] if arguments.cases else CASES
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    campaign = Campaign(folder, arguments.seed)
    tallies = campaign.carry_out(cases, arguments.kills)
    text = "\n".join(report(tallies, campaign.failures, time.monotonic() - began)) + "\n"
    print(text)
    if arguments.report:
        arguments.report.write_text(text)
    if not campaign.failures and not arguments.folder:
        shutil.rmtree(folder)
    sys.exit(bool(campaign.failures))


if __name__ == "__main__":
    main()
