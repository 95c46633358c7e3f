"""From what heads compute to predictions and labels in the form that scorers take."""

import numpy as np
import pytest

from xlt_scale.data.tokens import TokenizedData
from xlt_scale.evaluation.answers import DecodingOptions, answers
from xlt_scale.evaluation.predict import _in_order as in_order
from xlt_scale.evaluation.predict import _rows_per_example as rows_per_example
from xlt_scale.tasks.examples import ChoiceExamples, QuestionExamples, TaggedExamples, TextExamples
from xlt_scale.tasks.spec import TaskSpec

OPTIONS = DecodingOptions()
NO_TOKENS = TokenizedData.from_arrays(np.empty(0, np.int32), None, np.zeros(1, np.int64), None)
CLASSES = TaskSpec(name="own", kind="classification", labels=["no", "yes"])
TAGS = TaskSpec(name="tags", kind="tagging", labels=["O", "B-LOC"])
SPANS = TaskSpec(name="spans", kind="span")
CONTEXT = "Nairobi liegt in Kenia."


def questions(no_answer_score: float, answer_score: float) -> tuple[TokenizedData, np.ndarray]:
    """One window of a question about CONTEXT: start token, its words, and what a model says of them."""
    spans = np.array([[-1, -1], [0, 7], [8, 13], [14, 16], [17, 22], [22, 23]], dtype=np.int32)
    data = TokenizedData.from_arrays(
        np.zeros(6, np.int32), None, np.array([0, 6]), None, char_offsets=spans, owners=np.zeros(1, np.int64)
    )
    outputs = np.full((6, 2), -9.0, dtype=np.float32)
    outputs[0], outputs[4] = no_answer_score, answer_score
    return data, outputs


def test_classes_become_label_words() -> None:
    found = answers(CLASSES, TextExamples(["a", "b"], None, [1, 0]), NO_TOKENS, np.array([1, 1]), OPTIONS)
    assert (found.predictions, found.labels) == (["yes", "yes"], ["yes", "no"])
    assert found.facts == {"num_items": 2.0, "chance": 50.0}


def test_without_gold_labels_there_are_predictions_all_the_same() -> None:
    found = answers(CLASSES, TextExamples(["a", "b"]), NO_TOKENS, np.array([1, 0]), OPTIONS)
    assert (found.predictions, found.labels) == (["yes", "no"], None)


def test_guessing_among_different_numbers_of_choices_is_their_mean() -> None:
    examples = ChoiceExamples(["q", "q"], [["a", "b"], ["a", "b", "c", "d"]], [0, 3])
    found = answers(TaskSpec(name="c", kind="multiple_choice"), examples, NO_TOKENS, np.array([1, 3]), OPTIONS)
    assert (found.predictions, found.labels) == (["1", "3"], ["0", "3"])
    assert found.facts["chance"] == 37.5


def test_tags_of_all_pieces_are_joined_into_sentences() -> None:
    examples = TaggedExamples([["in", "Nairobi"], ["Kenia"]], [[0, 1], [1]])
    found = answers(TAGS, examples, NO_TOKENS, np.array([0, 1, 0]), OPTIONS)
    assert found.predictions == [["O", "B-LOC"], ["O"]]
    assert found.labels == [["O", "B-LOC"], ["B-LOC"]]


def test_an_answer_is_cut_from_the_passage() -> None:
    data, outputs = questions(no_answer_score=5.0, answer_score=3.0)
    examples = QuestionExamples(["q"], ["Wo?"], [CONTEXT], [[("Kenia", 17)]])
    found = answers(SPANS, examples, data, outputs, OPTIONS)
    assert (found.predictions, found.labels) == ({"q": "Kenia"}, {"q": ["Kenia"]})
    assert found.no_answer_scores == {}


@pytest.mark.parametrize(("threshold", "predicted"), [(0.0, ""), (5.0, "Kenia")])
def test_no_answer_is_predicted_where_it_exceeds_the_best_span_by_the_threshold(
    threshold: float, predicted: str
) -> None:
    data, outputs = questions(no_answer_score=5.0, answer_score=3.0)
    examples = QuestionExamples(["q"], ["Wo?"], [CONTEXT], [[]])
    spec = TaskSpec(name="v2", kind="span", no_answer=True)
    # All answers empty would mean a copy without gold labels, hence a second question.
    both = QuestionExamples(["q", "r"], ["Wo?"] * 2, [CONTEXT] * 2, [[], [("Kenia", 17)]])
    data = TokenizedData.from_arrays(
        np.zeros(12, np.int32),
        None,
        np.array([0, 6, 12]),
        None,
        char_offsets=np.tile(data.char_offsets, (2, 1)),  # type: ignore[arg-type]
        owners=np.array([0, 1]),
    )
    found = answers(spec, both, data, np.tile(outputs, (2, 1)), DecodingOptions(no_answer_threshold=threshold))
    assert found.predictions["q"] == predicted
    assert found.best_spans["q"] == "Kenia"
    assert found.no_answer_scores["q"] == pytest.approx(4.0)
    assert not examples.is_labelled


def test_rows_come_back_in_the_order_of_the_examples() -> None:
    sizes = np.array([2, 1, 3])
    rows = np.array([[30], [31], [32], [10], [11], [20]])  # of examples 2, 0 and 1
    assert in_order(np.array([2, 0, 1]), rows, sizes)[:, 0].tolist() == [10, 11, 20, 30, 31, 32]


def test_formats_have_their_own_number_of_rows() -> None:
    data = TokenizedData.from_arrays(
        np.zeros(7, np.int32),
        None,
        np.array([0, 3, 7]),
        None,
        token_labels=np.array([0, -100, 1, -100, 0, 0, 0], dtype=np.int16),
        groups=np.array([0, 2]),
    )
    assert rows_per_example("multiple_choice", data, "predictions").tolist() == [1]
    assert rows_per_example("dual_encoding", data, "predictions").tolist() == [2]
    ungrouped = TokenizedData.from_arrays(data.input_ids, None, data.offsets, None, token_labels=data.token_labels)
    assert rows_per_example("tagging", ungrouped, "predictions").tolist() == [2, 3]
    assert rows_per_example("span", ungrouped, "predictions").tolist() == [3, 4]
    assert rows_per_example("classification", ungrouped, "predictions").tolist() == [1, 1]
