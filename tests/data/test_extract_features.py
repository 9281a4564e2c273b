"""The choice of calibration clips."""

import numpy as np

from extract_features import calibration_rows


def test_classes_calibrate_in_equal_shares_as_far_as_they_reach() -> None:
    labels = np.repeat([0, 1, 2], [50, 50, 5])
    chosen = calibration_rows(labels, 32, np.random.default_rng(1))
    assert np.bincount(labels[chosen]).tolist() == [11, 11, 5]
    assert len(set(chosen)) == len(chosen)
    # More than there are: all of them.
    assert sorted(calibration_rows(labels, 100_000, np.random.default_rng(1))) == list(range(105))
