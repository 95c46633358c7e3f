"""Reading all labelled data before the first phase trains: a broken row of the last task is found at the start."""

from collections.abc import Iterator

from xlt_scale.tasks.loading import load_candidates, load_examples
from xlt_scale.tasks.spec import Split
from xlt_scale.training.setup import RunSetup

Item = tuple[str, Split, str]


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
        load_examples(setup.catalogue[task], split, language, source)
    for phase in setup.options.phases:
        for task, (split, languages) in setup.scoring(phase, setup.heads(phase)).items():
            if setup.catalogue[task].kind == "dual_encoding":
                load_candidates(setup.catalogue[task], split, source, languages)


def _items(setup: RunSetup) -> Iterator[Item]:
    for phase in setup.options.phases:
        for task in phase.tasks:
            spec = setup.catalogue[task]
            if spec.kind != "masked_language_modeling":
                wanted = phase.task_languages.get(task, phase.languages)
                for language in setup.preparer.training_languages(spec, wanted, phase.train_split):
                    yield task, phase.train_split, language
        for task, (split, languages) in setup.scoring(phase, setup.heads(phase)).items():
            for language in languages:
                yield task, split, language
                if setup.catalogue[task].kind == "bitext_mining":
                    yield task, "dev", language
