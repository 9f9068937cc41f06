import math

import pytest

from sightline.pretrain.temperature import gradient_shares, temperature_figure


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_shares_are_the_softmax_over_the_negatives(temperature):
    found = gradient_shares(temperature)
    # The highest is taken off first: exp(1 / 0.01) is beyond what a float holds with the sum.
    weights = [math.exp((s - 1) / temperature) for s in found["similarities"]]
    expected = [weight / sum(weights) for weight in weights]
    assert found["gradient_shares"] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_low_temperature_listens_to_the_hardest_negatives_and_a_high_one_to_all():
    def of_the_hardest_tenth(t):
        return sum(gradient_shares(t)["gradient_shares"][-4:])

    assert of_the_hardest_tenth(0.01) > 0.99
    assert of_the_hardest_tenth(1.0) < 0.25


def test_the_figure_holds_the_users_temperatures_and_the_configured_one_once():
    found = [curve["temperature"] for curve in temperature_figure(0.07)["curves"]]
    assert found == [0.01, 0.07, 1.0]
    assert temperature_figure(0.2)["configured"] == 0.2
    assert len(temperature_figure(0.2)["curves"]) == 4
