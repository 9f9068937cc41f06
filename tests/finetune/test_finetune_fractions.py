import numpy as np

from sightline.finetune import draw_label_fraction

# Two classes: 20 groups of 3 images, and 10 groups of 2.
LABELS = np.array([0] * 60 + [1] * 20)
GROUPS = [f"a{number // 3}" for number in range(60)] + [f"b{number // 2}" for number in range(20)]


def test_share_is_met_in_each_class_with_whole_groups():
    drawn = draw_label_fraction(LABELS, GROUPS, 0.3, seed=0)
    # 30 % of 60 is 18 = 6 groups; 30 % of 20 is 6 = 3 groups.
    assert np.bincount(LABELS[drawn]).tolist() == [18, 6]
    chosen = {GROUPS[place] for place in drawn}
    assert len(drawn) == sum(group in chosen for group in GROUPS)


def test_tiny_share_still_has_a_group_of_each_class():
    drawn = draw_label_fraction(LABELS, GROUPS, 0.001, seed=0)
    assert np.bincount(LABELS[drawn]).tolist() == [3, 2]


def test_smaller_share_is_a_part_of_the_larger_one():
    small, large = (set(draw_label_fraction(LABELS, GROUPS, f, seed=2)) for f in (0.1, 0.5))
    assert small < large


def test_seed_decides_which_groups():
    first, again, other = (draw_label_fraction(LABELS, GROUPS, 0.2, seed=s) for s in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_group_of_several_classes_counts_for_its_commonest():
    labels, groups = np.array([0, 0, 1, 1, 1]), ["p", "p", "p", "q", "q"]
    drawn = draw_label_fraction(labels, groups, 0.5, seed=0)
    assert drawn.tolist() == [0, 1, 2, 3, 4]
