"""Drawn boxes: edges at the right pixels, text inside the image, odd images."""

from __future__ import annotations

import numpy as np
import pytest

from ssd.drawing import class_colors, draw_boxes, mosaic, save_image, text_color
from ssd.errors import UserError

RED, GREEN = (255, 0, 0), (0, 255, 0)
GREY = 90


def image(height=120, width=200):
    return np.full((height, width, 3), GREY, np.uint8)


def colored(picture, color):
    return (picture == np.array(color)).all(axis=2)


def test_edges_of_a_detection_have_the_colour_of_its_class():
    before = image()
    drawn = draw_boxes(
        before,
        [[20, 50, 60, 90], [100, 50, 180, 110]],
        ["cat", "dog"],
        [0.5, 0.6],
        {"cat": RED, "dog": GREEN},
    )
    red, green = colored(drawn, RED), colored(drawn, GREEN)
    # right and bottom are exclusive
    assert (
        red[50, 20:60].all()
        and red[89, 20:60].all()
        and red[50:90, 20].all()
        and red[50:90, 59].all()
    )
    assert (
        green[50, 100:180].all() and green[109, 100:180].all() and green[50:110, [100, 179]].all()
    )
    assert not red[90:].any() and not green[110:].any()
    assert not red[50:, 60:].any() and not green[50:, 180:].any()
    assert (drawn[51:89, 21:59] == GREY).all() and (
        drawn[51:109, 101:179] == GREY
    ).all()  # nothing inside
    assert (before == GREY).all()  # the input is left alone


def test_labels_are_above_their_boxes_and_show_the_score():
    def strip(score):
        return draw_boxes(image(), [[20, 50, 60, 90]], ["cat"], [score], {"cat": RED})[:50]

    rows, columns = np.nonzero((strip(0.5) != GREY).any(axis=2))
    assert rows.max() == 49 and rows.min() >= 50 - 20 and columns.min() == 20
    assert (strip(0.5) != strip(0.6)).any()


def test_ground_truth_is_dashed_black_and_white():
    drawn = draw_boxes(image(), [[20, 50, 60, 90]], ["cat"])
    for edge in (drawn[50, 20:60], drawn[89, 20:60], drawn[50:90, 20], drawn[50:90, 59]):
        values = set(map(tuple, edge.tolist()))
        assert values == {(0, 0, 0), (255, 255, 255)}
    assert (drawn[51:89, 21:59] == GREY).all()


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 200, 120],
        [-30, -30, 40, 40],
        [150, 90, 999, 999],
        [-1e12, -1e12, 1e12, 1e12],
        [199.6, 119.6, 200, 120],
        [50, 50, 50, 50],
        [50.4, 50.4, 50.45, 50.45],
    ],
)
def test_boxes_at_and_across_the_border_are_visible(box):
    left, top, right, bottom = np.clip(
        np.rint(np.clip(box, -1e6, 1e6)), 0, [199, 119, 200, 120]
    ).astype(int)
    rows, columns = [top, max(bottom - 1, top)], [left, max(right - 1, left)]
    # without a label, which would cover corners
    assert (draw_boxes(image(), [box], [""])[rows, columns] != GREY).all()
    drawn = draw_boxes(image(), [box], ["a rather long name"], [0.5], {"a rather long name": RED})
    assert colored(drawn, RED).sum() > 200


@pytest.mark.parametrize(
    "box", [[-9, 10, 0, 20], [200, 0, 250, 20], [0, 120, 9, 130], [40, 40, 30, 50]]
)
def test_boxes_outside_or_inverted_are_left_out(box):
    assert (draw_boxes(image(), [box], ["cat"], [0.5]) == GREY).all()


def test_overlapping_labels_move_and_the_highest_score_stays():
    box = [20, 60, 150, 110]
    alone = draw_boxes(image(), [box], ["cat"], [0.9], {"cat": RED, "dog": GREEN})
    both = draw_boxes(image(), [box, box], ["cat", "dog"], [0.9, 0.2], {"cat": RED, "dog": GREEN})
    assert (both[:60, 20:70] == alone[:60, 20:70]).all()
    assert colored(both, GREEN).sum() > 200  # the other label, elsewhere


@pytest.mark.parametrize("height, width", [(1, 1), (1, 300), (300, 1), (2, 2), (12, 40), (30, 60)])
def test_small_images_and_long_names(height, width):
    for scores in (None, [0.5, 0.25]):
        drawn = draw_boxes(
            image(height, width),
            [[0, 0, width, height], [-5, -5, 0.3, 0.3]],
            ["n" * 500, "\u732b \U0001f408"],
            scores,
        )
        assert (
            drawn.shape == (height, width, 3)
            and drawn.dtype == np.uint8
            and (drawn[0, 0] != GREY).any()
        )


def test_a_long_name_is_shortened_to_the_image():
    narrow = draw_boxes(image(), [[0, 60, 50, 100]], ["w" * 500], [0.5], {"w" * 500: RED})
    strip = narrow[40:60]
    assert colored(strip, RED).any(axis=1).sum() > 9  # there is a label
    short = draw_boxes(image(), [[0, 60, 50, 100]], ["w" * 499], [0.5], {"w" * 499: RED})
    assert (narrow == short).all()  # of both the beginning and the end with the score


def test_a_long_name_keeps_its_score_and_leaves_half_of_the_image():
    name = "vehicle registration plate of a foreign car, partly hidden by mud"
    one, other = (
        draw_boxes(image(300, 900), [[0, 60, 50, 100]], [name], [score], {name: RED})
        for score in (0.81, 0.22)
    )
    assert (one != other).any(), "its score is there"
    assert 200 < np.flatnonzero(colored(one, RED).any(axis=0)).max() < 450


def test_classes_without_a_colour_always_get_the_same_one():
    def color(name):
        return tuple(draw_boxes(image(), [[20, 50, 60, 90]], [name], [0.5], {"cat": RED})[89, 40])

    assert color("cat") == RED and color("dog") == color("dog") != color("horse")
    assert color("dog") == (25, 249, 255)  # from the name alone: the same in every process


@pytest.mark.parametrize(
    "count, apart, neighbours", [(3, 60, 60), (20, 30, 45), (80, 13, 35), (264, 6.5, 30)]
)
def test_colours_of_many_classes(count, apart, neighbours):
    """Distances in CIELAB, by OpenCV; 2.3 is what people just see. Labels have the contrast of 4.5
    that WCAG asks of small text."""
    cv2 = pytest.importorskip("cv2")
    colors = np.array(list(class_colors([f"class {number}" for number in range(count)]).values()))
    lab = cv2.cvtColor(np.float32(colors[None] / 255), cv2.COLOR_RGB2LAB)[0].astype(float)
    between = np.linalg.norm(lab[:, None] - lab, axis=2) + np.diag([np.inf] * count)
    assert between.min() >= apart
    assert min(between[row, row - 1] for row in range(1, count)) >= neighbours
    for color in colors.tolist():
        light, dark = sorted((luminance(color), luminance(text_color(color))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, color


def luminance(color):
    """WCAG 2's relative luminance of (red, green, blue), 0 to 255."""
    shares = [part / 255 for part in color]
    return sum(
        weight * (share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4)
        for weight, share in zip((0.2126, 0.7152, 0.0722), shares)
    )


def test_more_classes_than_colours():
    colors = class_colors([str(number) for number in range(1300)])
    assert len(colors) == 1300 and len(set(colors.values())) > 500


def test_nothing_to_draw():
    assert (draw_boxes(image(), np.zeros((0, 4)), []) == GREY).all()
    assert (draw_boxes(image(), [], [], []) == GREY).all()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 1), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3)),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_grey_and_other_images_are_refused(wrong):
    with pytest.raises(AssertionError, match="uint8"):
        draw_boxes(wrong, [], [])


def test_other_bad_input_is_refused():
    for boxes, labels, scores in (
        ([[0, 0, np.nan, 5]], ["a"], None),
        ([[0, 0, 5, 5]], [], None),
        ([[0, 0, 5, 5]], ["a"], []),
    ):
        with pytest.raises(AssertionError):
            draw_boxes(image(), boxes, labels, scores)


def test_mosaic_puts_every_image_into_its_cell():
    pictures = [
        np.full((20, 40, 3), 10, np.uint8),
        np.full((80, 20, 3), 20, np.uint8),
        np.full((1, 1, 3), 30, np.uint8),
        np.full((30, 30, 3), 40, np.uint8),
    ]
    board = mosaic(pictures, columns=3, cell=40)
    assert board.shape == (80, 120, 3)
    cells = [board[:40, :40], board[:40, 40:80], board[:40, 80:], board[40:, :40]]
    for cell, value, covered in zip(cells, (10, 20, 30, 40), (20 * 40, 40 * 10, 1600, 1600)):
        assert (cell == value).all(axis=2).sum() == covered
        assert set(np.unique(cell)) <= {value, 128}
    assert (board[40:, 40:] == 128).all()
    assert mosaic(pictures[:2], columns=9, cell=10).shape == (10, 20, 3)


def test_saved_images_keep_their_colours(tmp_path):
    import cv2

    picture = image(8, 8)
    picture[:, :4] = RED
    path = tmp_path / "made" / "b\u00fccher.png"
    save_image(path, picture)
    save_image(path, picture)
    decoded = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[:, :, ::-1], picture)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    save_image(tmp_path / "a.jpg", picture)
    assert (tmp_path / "a.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    with pytest.raises(UserError, match="a.txt: an image's name must end"):
        save_image(tmp_path / "a.txt", picture)
    with pytest.raises(UserError, match="cannot write the image"):
        save_image(path / "a.png", picture)
