"""Records of data sets on the Hugging Face hub."""

import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from xlt_scale.errors import UserError, nearest, reason
from xlt_scale.hub import PREFETCH, datasets_cache, hub_cache, is_offline, not_to_be_had
from xlt_scale.tasks.hub_cache import Remembered, read_remembered, recall, remember
from xlt_scale.tasks.layouts import HubLayout, Split
from xlt_scale.tasks.records import Records, descend

logger = logging.getLogger(__name__)

# The branch into which the hub converts data sets; each configuration is a folder there.
_CONVERTED = "refs/convert/parquet"
_COMMIT = "[0-9a-f]{40}"


class HubRecords(Records):
    """One split of a data set; a column is read whole, because row by row takes a hundred times as long."""

    def __init__(self, source: str, dataset: Any) -> None:
        super().__init__(source, "row", range(1, len(dataset) + 1))
        self._dataset = dataset
        self.class_names = {
            name: names
            for name, feature in dataset.features.items()
            if (names := getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None))
        }

    def column(self, name: str | int) -> list[Any]:
        key = str(name)
        if key in self._dataset.column_names:
            return self._dataset[key][:]
        first, *path = key.split(".")
        if first in self._dataset.column_names:
            try:
                return [descend(value, path) for value in self._dataset[first][:]]
            except KeyError:
                pass
        raise UserError(f"{self.source}: no column {key!r}; {nearest(key, self._dataset.column_names)}")


def read_hub(hub: HubLayout, split: Split, code: str) -> list[Records]:
    """The records of our split: one item per split of the data set that it is made of.

    Args:
        code: what {language} stands for.

    Raises:
        UserError: the data set, configuration or split is not there, or there is no network.
    """
    table = _load(hub.dataset, _config(hub, code), hub.revision)
    source = f"hub dataset {hub.dataset}"
    found: list[Records] = []
    for name in hub.splits[split].replace("{language}", code).split("+"):
        if name not in table:
            raise UserError(f"{source}: no split {name!r}; {nearest(name, table)}")
        found.append(HubRecords(source if "+" not in hub.splits[split] else f"{source} ({name})", table[name]))
    return found


def where_read(hub: HubLayout, code: str) -> Remembered | None:
    """The files of this machine that a data set of the hub was read from; None before it was read, and for folders."""
    return recall(hub.dataset, _config(hub, code), hub.revision)


def _config(hub: HubLayout, code: str) -> str:
    return hub.config.replace("{language}", code)


@lru_cache(maxsize=64)
def _load(name: str, config: str, revision: str) -> Any:
    place = f"hub dataset {name!r}{f' ({config})' if config else ''}"
    found = recall(name, config, revision)
    if found is not None and is_offline():
        return read_remembered(found)
    if found is None and not is_offline() and not Path(name).exists():
        logger.info("downloading %s to %s; use xlt-scale prefetch beforehand", place, datasets_cache())
    import datasets

    try:
        if revision == _CONVERTED and config:
            loaded = datasets.load_dataset(name, data_dir=config, revision=revision)
        else:
            loaded = datasets.load_dataset(name, config or None, revision=revision or None)
    except Exception as error:  # the library raises many kinds for "not there" and "no network"
        if "scripts are no longer supported" in str(error):
            mend = f"set revision = {_CONVERTED!r} in its hub layout, or put its published files under data.root"
            raise UserError(f"{place} cannot be loaded: {reason(error)}; {mend}") from None
        raise not_to_be_had(place, error, datasets_cache(), "put its published files under data.root") from None
    _refuse_another_commit(place, loaded, revision)
    remember(name, config, revision, loaded)
    return loaded


def _refuse_another_commit(place: str, loaded: Any, revision: str) -> None:
    """Where the hub cannot be reached, `datasets` takes the newest copy there is, whatever is asked for."""
    commits = {Path(file["filename"]).parent.name for table in loaded.values() for file in table.cache_files}
    others = {commit for commit in commits if re.fullmatch(_COMMIT, commit)} - {revision}
    if re.fullmatch(_COMMIT, revision) and others:
        there = ", ".join(sorted(others))
        raise UserError(
            f"{place}: revision {revision} is not in the cache {datasets_cache()}, which has {there}; {PREFETCH}"
        )


@lru_cache(maxsize=64)
def resolved_revision(dataset: str, revision: str = "") -> str:
    """The commit that a revision of a hub data set stands for now; '' where the hub cannot be asked, and for folders. A
    commit stands for itself. With HF_HUB_OFFLINE it is what the revision stood for when the hub was last asked.

    Args:
        revision: commit, tag or branch; '' is the newest.
    """
    import huggingface_hub

    if Path(dataset).exists():
        return ""
    if re.fullmatch(_COMMIT, revision):
        return revision
    if is_offline():
        kept = Path(hub_cache(), f"datasets--{dataset.replace('/', '--')}", "refs", revision or "main")
        return kept.read_text(encoding="utf-8").strip() if kept.is_file() else ""
    try:
        return huggingface_hub.HfApi().dataset_info(dataset, revision=revision or None, timeout=10).sha or ""
    except Exception:  # no network, no such data set: loading says what is wrong
        return ""
