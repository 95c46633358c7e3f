"""What the Hugging Face hub's libraries mean when something cannot be had: why, and the mend, each in a clause."""

import errno
import os
from collections.abc import Iterator

from xlt_scale.errors import UserError, reason

PREFETCH = "run xlt-scale prefetch RUN.toml on a node with a network"
_ABSENT = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "IncompleteSnapshotError", "ConnectionError")
_UNREACHABLE = ("ConnectError", "ConnectTimeout", "ReadTimeout", "TimeoutException", "ConnectionError", "ProxyError")
_ABSENT_TEXTS = ("Couldn't find cache for", "couldn't find them in the cached files")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE keeps this process from the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def hub_cache() -> str:
    """Where the hub's files are kept on this machine: HF_HUB_CACHE, by default below HF_HOME."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def datasets_cache() -> str:
    """Where data sets of the hub are kept as tables: HF_DATASETS_CACHE, by default below HF_HOME."""
    import datasets

    return str(datasets.config.HF_DATASETS_CACHE)


def not_to_be_had(what: str, error: BaseException, cache: str, otherwise: str) -> UserError:
    """One line on what a hub library could not find, fetch or keep: what is missing, why, and the mend.

    Args:
        what: the key and name, as in "model.name = 'x'".
        cache: where it was looked for.
        otherwise: another mend than the network, as 'give a folder'.
    """
    why, mend = _why_and_mend(error, cache, otherwise)
    return UserError(f"{what} cannot be loaded: {why}; {mend}")


def _why_and_mend(error: BaseException, cache: str, otherwise: str) -> tuple[str, str]:
    errors = list(_chain(error))
    kinds = {kind.__name__ for each in errors for kind in type(each).__mro__}
    text = " ".join(str(each) for each in errors)
    if any(isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT) for each in errors):
        return f"the disk of {cache} is full", "make room there, or set HF_HOME to a folder with room"
    if "GatedRepoError" in kinds or "gated dataset" in text:
        return (
            "it is gated: the hub gives it only to who has accepted its terms",
            "accept them on its page, then set HF_TOKEN",
        )
    if "RevisionNotFoundError" in kinds or "Revision '" in text:
        return "the hub has no such revision of it", "correct the revision; a commit is best"
    status = {getattr(getattr(each, "response", None), "status_code", 0) for each in errors}
    if "RepositoryNotFoundError" in kinds or status & {401, 403} or "doesn't exist on the Hub" in text:
        return "the hub has nothing of that name, or keeps it private", "correct the name, or set HF_TOKEN"
    if status & {*range(500, 600)}:
        return f"the hub ({_endpoint()}) is out of order ({max(status)})", "run the same command again later"
    is_absent = bool(kinds & {*_ABSENT}) or any(part in text for part in _ABSENT_TEXTS)
    if is_offline() and is_absent:
        return f"it is not in the cache {cache}, and HF_HUB_OFFLINE is set", f"{PREFETCH}, or {otherwise}"
    if kinds & {*_UNREACHABLE, *_ABSENT} or "Couldn't reach" in text:
        return f"the hub ({_endpoint()}) cannot be reached from here", f"{PREFETCH}, or {otherwise}"
    return reason(error), f"{otherwise}, or {PREFETCH}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was made of."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__ or current.__context__


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "huggingface.co"
