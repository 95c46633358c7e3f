"""What all figures and tables of one report share: names, order, looks, anchors."""

from collections.abc import Mapping
from dataclasses import dataclass

from xlt_scale.scaling.report.evidence import Evidence
from xlt_scale.scaling.report.numbers import ordered, parameter_count, parameter_unit
from xlt_scale.scaling.report.style import Look, looks, shorten
from xlt_scale.scaling.results import Analysis, ArmFacts, StudyFacts

ALL_ARMS = "all"
ALL_LABEL = "mean of arms"


@dataclass(frozen=True)
class Subject:
    """An analysis with what is looked up again and again.

    Attributes:
        sizes: those with gains, from small to large; of several architecture families one family after another.
        families: by size, those of its sizes with gains.
        family_style: by family, where there are several.
        arms: those with gains, in the study's order.
        tasks: those with gains, in the study's order.
        parameters: by size.
    """

    analysis: Analysis
    evidence: Evidence
    sizes: tuple[str, ...]
    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    parameters: Mapping[str, int]
    families: Mapping[str, str]
    family_style: Mapping[str, Look]
    arm_labels: Mapping[str, str]
    style: Mapping[str, Look]

    @property
    def family_names(self) -> tuple[str, ...]:
        """In the study's order; one, or '' where it is not known, of a study of one family."""
        return tuple(dict.fromkeys(self.families[size] for size in self.sizes))

    @property
    def has_families(self) -> bool:
        """Whether sizes are of several architecture families."""
        return len(self.family_names) > 1

    @property
    def unit(self) -> tuple[float, str]:
        """What parameters are divided by, and its name."""
        return parameter_unit(max((self.parameters[size] for size in self.sizes), default=1))

    @property
    def parameter_label(self) -> str:
        return f"parameters ({self.unit[1]})" if self.unit[1] else "parameters"

    @property
    def short_sizes(self) -> Mapping[str, str]:
        """Names without what they all start with: 'large' of 'xlmr-large', where all are XLM-R."""
        heads = {size.partition("-")[0] for size in self.sizes}
        shared = f"{heads.pop()}-" if len(heads) == 1 and len(self.sizes) > 1 else ""
        return {size: size[len(shared) :] or size for size in self.sizes}

    def arm_label(self, arm: str) -> str:
        """A label that fits into a figure."""
        return shorten(self.arm_labels.get(arm, arm))

    def size_label(self, size: str) -> str:
        """'xlmr-xl, 3.48 B'."""
        factor, name = self.unit
        count = f"{parameter_count(self.parameters[size], factor)}\N{NO-BREAK SPACE}{name[:1].upper()}".strip()
        adapters = self.analysis.results.facts.adapters.get((size, ""), "")
        return f"{size}, {count}, {adapters}" if adapters else f"{size}, {count}"

    def sizes_in_words(self) -> str:
        """For captions: which size has how many parameters."""
        factor, name = self.unit
        parts = []
        for family in self.family_names:
            own = [size for size in self.sizes if self.families[size] == family]
            names = ", ".join(f"{size} {parameter_count(self.parameters[size], factor)}" for size in own)
            parts.append(f"{family}: {names}" if self.has_families else names)
        listed = "; ".join(parts)
        return f"Sizes ({name} of parameters): {listed}." if name else f"Sizes: {listed}."


def _marked(arm: ArmFacts, facts: StudyFacts) -> str:
    """The arm's label, with the adapters of its intermediate phases."""
    found = dict.fromkeys(word for (_, name), word in facts.adapters.items() if name == arm.name)
    label = arm.label or arm.name
    return f"{label} ({', '.join(found)})" if found else label


def subject_of(analysis: Analysis, evidence: Evidence) -> Subject:
    facts = analysis.results.facts
    parameters = {size.name: size.num_parameters for size in facts.sizes}
    families = {size.name: size.family for size in facts.sizes}
    names = list(dict.fromkeys(families.values()))
    in_order = sorted(parameters, key=lambda name: (names.index(families[name]), parameters[name]))
    groups, cells = analysis.groups, analysis.cells
    # A name without facts would be a mistake of the analysis; it is shown rather than lost.
    sizes = tuple(ordered([*groups["size"], *cells["size"]], in_order))
    arms = tuple(ordered([*groups["arm"], *cells["arm"]], [arm.name for arm in facts.arms]))
    tasks = tuple(ordered(cells["task"], [task.name for task in facts.tasks]))
    labels = {arm.name: _marked(arm, facts) for arm in facts.arms} | {ALL_ARMS: ALL_LABEL}
    style = looks(arms)
    parameters |= {size: 1 for size in sizes if size not in parameters}
    families |= {size: "" for size in sizes if size not in families}
    own = list(dict.fromkeys(families[size] for size in sizes))
    family_style = looks(own) if len(own) > 1 else {}
    return Subject(analysis, evidence, sizes, arms, tasks, parameters, families, family_style, labels, style)
