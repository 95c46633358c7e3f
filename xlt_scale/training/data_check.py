"""Reading all labelled data before the first phase trains: a broken row of the last task is found at the start."""

from collections.abc import Iterator

from xlt_scale.tasks.loading import available_languages, load_candidates, load_examples
from xlt_scale.tasks.spec import Split
from xlt_scale.training.setup import RunSetup

Item = tuple[str, Split, str]
"""Task, split and language."""

_POOL = "*"
"""In place of a language: the candidates of all of them."""


def check_data(setup: RunSetup) -> None:
    """Read what all phases train on and are scored on, each file once; collective, rank 0 reads.

    Raw text for masked language modelling has no rows that can be wrong and is not read here.

    Raises:
        UserError: something is missing or broken; all ranks raise.
    """
    setup.world.share(lambda: _read_all(setup))


def _read_all(setup: RunSetup) -> None:
    source = setup.preparer.source
    for task, split, language in dict.fromkeys(_items(setup)):
        spec = setup.catalogue[task]
        if language == _POOL:
            load_candidates(spec, split, source, available_languages(spec, split, source))
        else:
            load_examples(spec, split, language, source)


def _items(setup: RunSetup) -> Iterator[Item]:
    for phase in setup.options.phases:
        for task in phase.tasks:
            if setup.catalogue[task].kind != "masked_language_modeling":
                for language in setup.training_languages(phase, task):
                    yield task, phase.train_split, language
        for task, (split, languages) in setup.scoring(phase, setup.heads(phase)).items():
            kind = setup.catalogue[task].kind
            if kind == "dual_encoding":
                yield task, split, _POOL
            for language in languages:
                yield task, split, language
                if kind == "bitext_mining":
                    yield task, "dev", language
