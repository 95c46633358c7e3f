"""Which figures a study has, and why others are left out."""

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib

from xlt_scale.scaling.report.drawing import Drawing
from xlt_scale.scaling.report.figure_costs import costs
from xlt_scale.scaling.report.figure_curves import CurveTables, learning_curves
from xlt_scale.scaling.report.figure_families import gain_of_architectures, languages_of_architectures
from xlt_scale.scaling.report.figure_forest import forest
from xlt_scale.scaling.report.figure_gain import gain_by_family, gain_by_target
from xlt_scale.scaling.report.figure_heat import heat_maps
from xlt_scale.scaling.report.figure_languages import languages
from xlt_scale.scaling.report.style import SETTINGS
from xlt_scale.scaling.report.subject import Subject


@dataclass(frozen=True)
class Figures:
    """Figures in the order of the page, and a line about each that is not there."""

    drawings: tuple[Drawing, ...]
    left_out: tuple[str, ...]


def draw_figures(subject: Subject, curves: CurveTables) -> Figures:
    """All figures that make sense for these data."""
    drawings: list[Drawing] = []
    left_out: list[str] = []
    is_one_size = len(subject.sizes) < 2
    no_size = "one size shows no direction" if is_one_size else "there are no gains yet"
    no_family = "one size shows no direction" if is_one_size else "gains are of one language family, or none"
    if subject.has_families:
        no_family = "gains are of one language family, or panels by arm and family too many"
    by_target = gain_of_architectures if subject.has_families else gain_by_target
    by_language = languages_of_architectures if subject.has_families else gain_by_family
    no_slope = "a slope needs two sizes or more" if is_one_size else "the analysis has no slopes"
    plans: list[tuple[str, str, Callable[[], Drawing | None]]] = [
        ("Gain against model size", no_size, lambda: None if is_one_size else by_target(subject)),
        ("Gain by language family", no_family, lambda: None if is_one_size else by_language(subject)),
        ("Gain by intermediate task and target", "there are no gains yet", lambda: heat_maps(subject)),
        ("Slopes", no_slope, lambda: forest(subject)),
        ("Languages", "there are fewer than three cells", lambda: languages(subject)),
        ("Learning curves", "no losses were recorded", lambda: learning_curves(subject, curves)),
        ("Costs", "no hours were recorded", lambda: costs(subject)),
    ]
    with matplotlib.rc_context(SETTINGS):
        for name, why, draw in plans:
            drawing = draw()
            if drawing is None:
                left_out.append(f"{name}: not drawn, {why}.")
            else:
                drawings.append(drawing)
    return Figures(tuple(drawings), tuple(left_out))
