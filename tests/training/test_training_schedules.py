import pytest

from sightline.training.schedules import cosine_learning_rate


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(1, 1.00e-3), (10, 9.80e-4), (25, 8.64e-4), (50, 5.16e-4), (75, 1.58e-4), (100, 2.5e-7)],
)
def test_learning_rates_of_the_notebook(epoch, expected):
    found = cosine_learning_rate(epoch - 1, 100, 1e-3)
    # The published table has three digits, its last entry two.
    assert float(f"{found:.1e}" if epoch == 100 else f"{found:.2e}") == expected


def test_warmup_rises_in_equal_steps_and_the_cosine_starts_at_its_top():
    rates = [cosine_learning_rate(index, 12, 1.0, warmup_epochs=3) for index in range(12)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_a_third_of_the_cosine_leaves_three_quarters():
    assert cosine_learning_rate(10, 30, 0.4) == pytest.approx(0.3)
