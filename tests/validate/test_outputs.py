"""What an engine returns, checked before anything is computed from it."""

import math

import numpy as np
import pytest

from msal_deploy.errors import BadInput
from msal_deploy.scoring.outputs import OutputFindings, check_output

IMAGES = np.zeros((2, 4, 8, 3), np.uint8)


def probability(*values):
    """float32[2,1,4,8] of 0.5, but for the last pixels."""
    p = np.full((2, 1, 4, 8), 0.5, np.float32)
    p.reshape(-1)[64 - len(values) :] = values
    return p


def test_a_good_output_has_no_findings():
    findings = check_output(probability(0, 1), IMAGES)
    assert findings == OutputFindings(pixels=64, not_finite=0, lowest=0.0, highest=1.0)
    assert findings.sentences == ()
    assert OutputFindings() == OutputFindings(0, 0, 0.0, 1.0)


def test_numbers_that_are_not_finite_are_counted_and_do_not_hide_the_range():
    findings = check_output(probability(math.nan, math.inf, -math.inf, -4.5, 7), IMAGES, engine="fake:fp32")
    assert findings == OutputFindings(pixels=64, not_finite=3, lowest=-4.5, highest=7.0)
    assert findings.sentences == (
        "3 of 64 probabilities are not finite",
        "Expected probabilities from 0 to 1, got -4.5 to 7; check that the graph ends in a sigmoid",
    )


def test_findings_of_batches_add_up():
    total = OutputFindings(900, 1, -2.0, 1.5) + OutputFindings(400, 2, -3.0, 1.25)
    assert total == OutputFindings(1300, 3, -3.0, 1.5)
    assert total.sentences[0] == "3 of 1,300 probabilities are not finite"
    assert OutputFindings(1, 0, -3.0, 1.25) + OutputFindings(1, 0, -2.0, 1.5) == OutputFindings(2, 0, -3.0, 1.5)


@pytest.mark.parametrize(
    ("low", "high", "count"), [(-0.001, 1.001, 0), (-0.0011, 1.0, 1), (0.0, 1.0011, 1), (-0.0011, 1.0011, 1)]
)
def test_rounding_is_no_finding(low, high, count):
    assert len(OutputFindings(10, 0, low, high).sentences) == count


@pytest.mark.parametrize(
    ("output", "expected", "got"),
    [
        (np.zeros((2, 4, 8), np.float32), "float32[2, 1, 4, 8]", "float32[2, 4, 8]"),
        (np.zeros((2, 1, 8, 4), np.float32), "float32[2, 1, 4, 8]", "float32[2, 1, 8, 4]"),
        (np.zeros((2, 1, 4, 8), np.float16), "float32[2, 1, 4, 8]", "float16[2, 1, 4, 8]"),
        ([0.5, 0.5], "float32[2, 1, 4, 8]", "list[2]"),
    ],
)
def test_another_shape_or_type_is_refused(output, expected, got):
    with pytest.raises(BadInput) as caught:
        check_output(output, IMAGES, engine="fake:fp32")
    message = f"Expected {expected} from fake:fp32, got {got}; use a graph that msal-deploy exported"
    assert str(caught.value) == message


def test_the_engine_need_not_be_named():
    with pytest.raises(BadInput, match="from the engine, got"):
        check_output(np.zeros(1, np.float32), IMAGES)
