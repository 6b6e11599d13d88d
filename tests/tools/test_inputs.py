"""Names of predict's output files."""

from ssd.tools.inputs import OutputNames


class Counting(set):
    """A set that counts its look-ups."""

    asked = 0

    def __contains__(self, value):
        self.asked += 1
        return super().__contains__(value)


def test_output_names_of_many_inputs_with_one_name():
    """A thousand frames of one name: each name is looked up once or twice, not compared with all
    before it."""
    names = OutputNames()
    names._taken = taken = Counting()
    assert [names.new(f"{folder}/frame.png", ".jpg") for folder in "ab"] == [
        "a/frame.jpg",
        "b/frame.jpg",
    ]
    made = [names.new("frame.png" if number % 2 else "Frame.JPG", ".jpg") for number in range(1000)]
    assert made[:3] == ["Frame.jpg", "frame-2.jpg", "Frame-3.jpg"] and made[-1] == "frame-1000.jpg"
    assert taken.asked <= 2 * 1002


def test_an_input_name_that_looks_numbered():
    names = OutputNames()
    assert [
        names.new(name, ".png")
        for name in ("a-2.jpg", "a.jpg", "a.png", "a.bmp", "a-2.png", "A-2.gif")
    ] == ["a-2.png", "a.png", "a-3.png", "a-4.png", "a-2-2.png", "A-2-3.png"]
    assert names.new("a.jpg", ".mp4") == "a.mp4"
