"""Look at checkpoints, verify and compare them, and remove those that are no longer needed."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from xlt_scale.errors import FAILURE_EXIT_CODE, UserError

# Those of the checkpoints import PyTorch, which takes seconds: only the commands below do, when they run.
if TYPE_CHECKING:
    from xlt_scale.checkpoint.comparison import Comparison
    from xlt_scale.checkpoint.finding import FoundCheckpoint
    from xlt_scale.checkpoint.manifest import Manifest

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
OnePath = Annotated[Path, typer.Argument(help="A checkpoint, or a phase's folder: its newest whole checkpoint.")]

_MISSING = "-"


@app.command("list")
def list_(
    path: Annotated[Path, typer.Argument(help="A run's folder, a phase's, or a folder of checkpoints.")],
    as_json: AsJson = False,
) -> None:
    """List the checkpoints of a run or a phase, with their state by manifest and file sizes.

    Example: xlt-scale checkpoint list runs/first
    """
    from xlt_scale.checkpoint.finding import find_checkpoints

    found = find_checkpoints(path, with_remains=True)
    if as_json:
        _print_json([_summary(one) for one in found])
        return
    if not found:
        print(f"{path}: no checkpoint yet")
        return
    rows = []
    for one in found:
        row = _summary(one)
        holds = f"{row['holds']} (result)" if one.is_result else row["holds"]
        saved = f"{one.saved_at:%Y-%m-%d %H:%M}" if one.saved_at else _MISSING
        rows.append(
            [row["phase"], row["step"], holds, _size(row["bytes"]), row["engine"], row["world_size"], saved, one.state]
        )
    names = ["phase", "step", "holds", "size", "engine", "ranks", "saved (UTC)", "state"]
    _print_table(f"Checkpoints of {path}", names, rows, right=("step", "size", "ranks"))
    for one in found:
        if one.problem:
            print(f"{one.state}: {one.problem}")


@app.command()
def show(
    path: OnePath,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what one checkpoint holds and what made it.

    Example: xlt-scale checkpoint show runs/first/phases/target/checkpoints/step-00000200
    """
    from xlt_scale.checkpoint.finding import find_checkpoint

    found = find_checkpoint(path)
    assert found.manifest is not None
    manifest = found.manifest
    table = [
        {"tensor": key, "shape": list(tensor.shape), "ranges": len(tensor.ranges), "crc32": f"{tensor.crc32:08x}"}
        for key, tensor in manifest.tensors.items()
        if tensors
    ]
    if as_json:
        counts = {"parameters": _count(manifest), "trained_parameters": _count(manifest, "exp_avg/")}
        files = {"files": len(manifest.files), "facts": manifest.facts}
        _print_json(_summary(found) | counts | files | ({"tensors": table} if tensors else {}))
        return
    _print_lines(str(found.folder), _description(found, manifest))
    if groups := _table(_table(manifest.facts, "optimizer"), "groups"):
        settings = list(dict.fromkeys(key for name in groups for key in _table(groups, name)))
        rows = [[name, *(_number(_table(groups, name).get(key, _MISSING)) for key in settings)] for name in groups]
        _print_table("Optimiser groups", ["group", *settings], rows)
    if tensors:
        _print_table("Tensors", list(table[0]) if table else [], [list(row.values()) for row in table])


@app.command()
def verify(
    paths: Annotated[list[Path], typer.Argument(help="Checkpoints, phases' folders, runs' folders.")],
    as_json: AsJson = False,
) -> None:
    """Read every byte of checkpoints and compare it with the checksums that it was written with.

    Exit code 1 when one is damaged or unfinished.

    Example: xlt-scale checkpoint verify runs/first
    """
    from xlt_scale.checkpoint.finding import find_checkpoints
    from xlt_scale.checkpoint.store import check_files

    found = [one for path in paths for one in find_checkpoints(path)]
    if not found:
        raise UserError(f"{paths[0]} holds no checkpoint yet; name another folder")
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    with _reading(sum(one.manifest.num_bytes for one in found if one.manifest and not one.problem)) as advance:
        for one in found:
            problem = one.problem
            try:
                if one.manifest is not None and not problem:
                    check_files(one.folder, one.manifest, read_all=True, advance=advance)
            except UserError as error:
                problem = str(error)
            rows.append({"path": str(one.folder), "ok": not problem, "problem": problem, "bytes": one.num_bytes})
            if not as_json:
                print(f"{one.state if one.problem else 'damaged'}: {problem}" if problem else f"ok: {one.folder}")
    seconds = time.perf_counter() - began
    if as_json:
        _print_json(rows)
    elif num_bytes := sum(row["bytes"] for row in rows if row["ok"]):
        print(f"{_size(num_bytes)} read in {seconds:.1f} s, {num_bytes / 1e9 / seconds:.2f} GB/s")
    if not all(row["ok"] for row in rows):
        raise typer.Exit(FAILURE_EXIT_CODE)


@app.command()
def diff(
    first: OnePath,
    second: OnePath,
    limit: Annotated[int, typer.Option(min=0, help="Differing tensors to read and show.")] = 20,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Compare parameters alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether two checkpoints hold the same state, whatever engine and number of ranks saved them.

    Checksums are compared; only tensors that differ are read. Exit code 0 when the states are equal, 1 when not.

    Example: xlt-scale checkpoint diff runs/first/phases/target runs/second/phases/target
    """
    from xlt_scale.checkpoint.comparison import compare, largest_difference
    from xlt_scale.checkpoint.finding import find_checkpoint
    from xlt_scale.checkpoint.reader import CheckpointReader

    folders = [find_checkpoint(path).folder for path in (first, second)]
    one, other = (CheckpointReader(folder) for folder in folders)
    comparison = compare(one.manifest, other.manifest, weights_only)
    differences = {key: largest_difference(one, other, key) for key in comparison.differing[:limit]}
    one.close()
    other.close()
    if as_json:
        facts = {"first": str(folders[0]), "second": str(folders[1]), "equal": comparison.is_equal}
        # JSON has no NaN.
        numbers = {key: None if math.isnan(difference) else difference for key, difference in differences.items()}
        _print_json(facts | vars(comparison) | {"largest_differences": numbers})
    else:
        _print_comparison(folders, comparison, differences)
    if not comparison.is_equal:
        raise typer.Exit(FAILURE_EXIT_CODE)


@app.command()
def prune(
    path: Annotated[Path, typer.Argument(help="A run's folder, a phase's, or a folder of checkpoints.")],
    keep_last: Annotated[int, typer.Option(min=1, help="Newest checkpoints that stay.")] = 2,
    keep_every: Annotated[int, typer.Option(min=0, help="Those of every so many steps stay; 0 = none.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove older checkpoints of each phase, after the newest one was read and found good.

    A phase's result stays, the checkpoint of its best score, and what is damaged or unfinished: see `list`.

    Example: xlt-scale checkpoint prune runs/first --keep-last 1 --dry-run
    """
    from xlt_scale.checkpoint.finding import is_checkpoint, phase_folders
    from xlt_scale.checkpoint.pruning import check_newest, plan_pruning, remove
    from xlt_scale.checkpoint.store import Retention

    if is_checkpoint(path):
        raise UserError(f"{path} is one checkpoint; name the folder of its phase")
    prunings = [plan_pruning(phase, Retention(keep_last, keep_every)) for phase in phase_folders(path)]
    removed = [one for pruning in prunings for one in pruning.removed]
    num_bytes = {one.folder: one.num_bytes for one in removed}
    newest = [pruning.kept[-1].manifest for pruning in prunings if pruning.removed]
    if not dry_run:
        with _reading(sum(manifest.num_bytes for manifest in newest if manifest)) as advance:
            for pruning in prunings:
                if pruning.removed:
                    check_newest(pruning, advance)
    for one in removed:
        if not dry_run:
            remove(one)
        if not as_json:
            print(f"{'would remove' if dry_run else 'removed'} {one.folder}  {_size(num_bytes[one.folder])}")
    passed_over = [one for pruning in prunings for one in pruning.passed_over]
    total = sum(num_bytes.values())
    if as_json:
        kept = [str(one.folder) for pruning in prunings for one in pruning.kept]
        left = {"kept": kept, "passed_over": [str(one.folder) for one in passed_over]}
        _print_json({"removed": [str(folder) for folder in num_bytes], "bytes": total, "dry_run": dry_run} | left)
        return
    for one in passed_over:
        print(f"left alone, {one.state}: {one.problem}")
    print(f"{_size(total)} {'would be freed' if dry_run else 'freed'}" if removed else f"{path}: nothing to remove")


def _summary(found: "FoundCheckpoint") -> dict[str, Any]:
    """What `list` tells of a checkpoint."""
    facts = found.manifest.facts if found.manifest else {}
    holds = _MISSING
    if found.manifest:
        holds = "training state" if found.manifest.holds_training_state else "weights"
    return {
        "path": str(found.folder),
        "phase": found.phase,
        "step": found.step,
        "holds": holds,
        "bytes": found.num_bytes,
        "engine": facts.get("engine"),
        "world_size": facts.get("world_size"),
        "saved_at": found.saved_at.isoformat(timespec="seconds") if found.saved_at else None,
        "state": found.state,
        "problem": found.problem,
    }


def _description(found: "FoundCheckpoint", manifest: "Manifest") -> dict[str, str]:
    """What `show` tells of a checkpoint, line by line."""
    facts = manifest.facts
    optimizer, best, progress = (_table(facts, name) for name in ("optimizer", "best", "progress"))
    num_trained = _count(manifest, "exp_avg/")
    trained = f" ({num_trained:,} trained)" if num_trained else ""
    lines = {
        "state": found.problem or "whole",
        "phase": found.phase,
        "step": f"{found.step} of {facts.get('num_steps', '?')}",
        "holds": _summary(found)["holds"],
        "parameters": f"{_count(manifest):,}{trained}",
        "size": f"{_size(manifest.num_bytes)} in {_plural(len(manifest.files), 'file')}",
        "saved": f"{found.saved_at:%Y-%m-%d %H:%M:%S} UTC" if found.saved_at else _MISSING,
        "saved by": f"{facts.get('engine', '?')} on {facts.get('world_size', '?')}, {facts.get('precision', '?')}",
    }
    if optimizer:
        lines["optimiser"] = f"{optimizer.get('name', '?')} after {optimizer.get('num_steps', '?')} steps"
    for task, place in _table(facts, "position").items():
        lines[f"position in {task}"] = _in_words(place if isinstance(place, dict) else {"steps": place})
    if progress:
        lines["progress"] = _in_words(progress)
    if best:
        lines["best score"] = f"{best.get('value', '?')} at step {best.get('step', '?')}"
    if versions := _table(facts, "versions"):
        lines["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if facts.get("git_revision"):
        lines["git revision"] = str(facts["git_revision"])
    return lines


def _print_comparison(folders: Sequence[Path], comparison: "Comparison", differences: dict[str, float]) -> None:
    print(f"first:  {folders[0]}\nsecond: {folders[1]}")
    if differences:
        rows = [[key, f"{difference:.3g}"] for key, difference in differences.items()]
        _print_table("Tensors that differ", ["tensor", "largest difference"], rows, right=("largest difference",))
    if len(comparison.differing) > len(differences):
        print(f"and {len(comparison.differing) - len(differences)} more (--limit)")
    for key, (one, other) in comparison.reshaped.items():
        print(f"{key} has shape {list(one)} in the first, {list(other)} in the second")
    for which, keys in (("first", comparison.only_first), ("second", comparison.only_second)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            print(f"{_plural(len(keys), 'tensor')} in the {which} only: {', '.join(keys[:3])}{more}")
    names = ["fact", "first", "second"]
    for title, facts in (
        ("The state's facts that differ", comparison.state_facts),
        ("Other facts that differ: they do not count", comparison.other_facts),
    ):
        if facts:
            _print_table(title, names, [[name, *change] for name, change in facts.items()])
    num_others = len(comparison.differing) + len(comparison.reshaped)
    print(f"tensors: {comparison.num_equal} equal, {num_others} differing")
    print("the states are equal" if comparison.is_equal else "the states differ")


@contextmanager
def _reading(num_bytes: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal; gives what to call with the number of bytes after each piece."""
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # Lines that are printed meanwhile go above the bar; those for a file or a pipe must get there.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        task = progress.add_task("", total=num_bytes)
        yield lambda count: progress.advance(task, count)


def _print_table(title: str, names: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> None:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_MISSING if cell is None else str(cell)) for cell in row))
    # A file or a pipe has no width: there nothing need be wrapped.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _print_lines(title: str, lines: dict[str, str]) -> None:
    print(title)
    width = max(map(len, lines))
    for name, text in lines.items():
        print(f"  {name:{width}}  {text}")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _count(manifest: "Manifest", kind: str = "param/") -> int:
    """Elements of all tensors of one kind."""
    return sum(tensor.numel for key, tensor in manifest.tensors.items() if key.startswith(kind))


def _table(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """A nested table of a manifest's facts; empty where an older program wrote none."""
    value = facts.get(name)
    return value if isinstance(value, dict) else {}


def _in_words(counts: dict[str, Any]) -> str:
    """Numbers by what they count."""
    return ", ".join(f"{name} {_number(number)}" for name, number in counts.items())


def _number(number: Any) -> str:
    if isinstance(number, float):
        return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
    return f"{number:,}" if isinstance(number, int) else str(number)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _size(num_bytes: float) -> str:
    """Decimal units, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if num_bytes >= 100 or unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
