import numpy as np
import pytest

from sightline.data.randomness import derived_seed, derived_uniforms


def test_numbers_are_even_between_0_and_1_and_independent_of_their_neighbours():
    draws = np.array([derived_uniforms(4, "even", index) for index in range(5000)])
    assert draws.min() >= 0
    assert draws.max() < 1
    # The standard error of the mean of 5,000 draws is 0.004, of a correlation 0.014.
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(draws.var(axis=0), 1 / 12, atol=0.005)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(4), atol=0.06)
    assert np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1] == pytest.approx(0, abs=0.06)


def test_the_first_numbers_are_the_same_however_many_are_drawn():
    assert derived_uniforms(3, 1, "a") == derived_uniforms(9, 1, "a")[:3]


def test_parts_are_kept_apart():
    assert derived_uniforms(1, 1, 23) != derived_uniforms(1, 12, 3)
    assert derived_seed(1, 23) != derived_seed(12, 3)


def test_seeds_and_numbers_are_those_of_earlier_versions():
    # A data set's splits and a resumed training hang on them.
    assert derived_seed(0, "group", 7) == 7105024491136758508
    assert derived_uniforms(2, 0, "group", 7) == [0.46390087121249446, 0.9316715184611132]
