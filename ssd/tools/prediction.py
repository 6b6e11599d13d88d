"""Images and videos through a detector: detections are drawn, saved and counted."""

from __future__ import annotations

import collections
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Iterable, Iterator, List, Optional, Tuple

import numpy as np

from ssd import ends
from ssd.drawing import class_colors, draw_boxes, save_image
from ssd.errors import UserError, on_a_line
from ssd.evaluation.detections import Detections
from ssd.files import replace_file, write_errors
from ssd.fonts import labels_of
from ssd.tools.image_input import load_image
from ssd.tools.inputs import Input, OutputNames
from ssd.tools.videos import VideoReader, VideoWriter


class Prediction:
    """The detections so far.

    images: the entries of images.json, COCO's `images`; failures: a line for each input that failed
    or is incomplete; notes: other lines about inputs; finished: number of completed inputs;
    interrupted: the video that `stop` interrupted, as text.
    """

    def __init__(
        self, detector, folder: str, scheme, least: Optional[float], stop: threading.Event
    ):
        """scheme: the ids of an annotation file (predict's IdScheme), or None to number images from
        1. least: score above which detections are drawn; None: draw nothing. stop: set to end after
        the current image or frame."""
        self.detector, self.folder, self.scheme = detector, folder, scheme
        self.least, self.stop = least, stop
        self.images: List[dict] = []
        self.failures: List[str] = []
        self.notes: List[str] = []
        self.finished, self.interrupted = 0, ""
        self.counts = collections.Counter()  # images, videos, frames, drawn detections
        self._has_category = np.array([number is not None for number in detector.category_ids])
        self._found: List[Tuple[int, object]] = []  # (image id, Detected)
        self._names = OutputNames()
        self._labels, self._legend = (
            labels_of(detector.class_names) if least is not None else ({}, "")
        )
        self._colors = {
            self._labels.get(name, name): color
            for name, color in class_colors(detector.class_names).items()
        }

    def predict_images(self, inputs: List[Input], advance) -> None:
        """Detect on image files; unreadable ones are recorded as failures. Calls `advance()` after
        each."""
        for (one, pixels), detected in self._detect(self._readable(inputs, advance)):
            image = dict(file_name=one.path, width=pixels.shape[1], height=pixels.shape[0])
            if self.least is not None:
                jpeg = os.path.splitext(one.path)[1].lower() in (".jpg", ".jpeg", ".jpe")
                image["drawn"] = self._names.new(one.inside, ".jpg" if jpeg else ".png")
                save_image(os.path.join(self.folder, image["drawn"]), self._drawn(pixels, detected))
            if self.scheme is not None:
                image.update(self.scheme.id_and_name(one.path))
            self._keep(image, detected)
            self.counts["images"] += 1
            self.finished += 1
            advance()
            if self.stop.is_set():
                break

    def predict_video(self, reader: VideoReader, one: Input, advance) -> None:
        """Detect on every frame of a video; a read error is recorded as a failure. Calls
        `advance()` after each frame."""
        name, writer, audio, done, failures = None, None, None, 0, len(self.failures)
        if self.least is not None:
            name = self._names.new(one.inside, ".mp4")
            path = os.path.join(self.folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            audio = reader.audio()
            writer = VideoWriter(path, reader.rate, audio)
        try:
            for (seconds, pixels), detected in self._detect(self._until_broken(reader)):
                done += 1
                image = dict(
                    file_name=one.path,
                    width=pixels.shape[1],
                    height=pixels.shape[0],
                    frame=done,
                    seconds=round(seconds, 6),
                )
                if writer is not None:
                    image["drawn"] = name
                    drawn = self._drawn(pixels, detected)
                    writer.add(drawn, seconds, reader.start, reader.display)
                self._keep(image, detected)
                advance()
                if self.stop.is_set():
                    self.interrupted = f"{_number(done, 'frame')} of {one.path}"
                    break
            complete = len(self.failures) == failures and not self.interrupted
            if reader.notes():
                self.notes.append(f"{one.path}: {reader.notes()}")
            if writer is not None and done:
                writer.finish(complete, reader.end)
                if audio is not None and audio.missing:
                    self.notes.append(f"{one.path}: {audio.missing}")
        finally:
            if writer is not None:
                writer.close()
        self.finished += complete
        self.counts["videos"] += done > 0
        self.counts["frames"] += done

    def _detect(self, items: Iterable[tuple]) -> Iterator[tuple]:
        """(item, Detected) of each item, whose last part is its pixels."""
        waiting = collections.deque()

        def batches():
            batch = []
            for item in items:
                batch.append(item)
                if len(batch) == self.detector.batch_size:
                    waiting.append(batch)
                    yield [item[-1] for item in batch]
                    batch = []
            if batch:
                waiting.append(batch)
                yield [item[-1] for item in batch]

        for results in self.detector.stream(batches()):
            yield from zip(waiting.popleft(), map(self._of_categories, results))

    def _of_categories(self, detected):
        """Drop the classes that the scheme's annotation file does not have."""
        kept = self._has_category[detected.ids[:, 0]]
        return detected if kept.all() else detected.select(kept)

    def _readable(self, inputs: List[Input], advance) -> Iterator[Tuple[Input, np.ndarray]]:
        """The readable images, read by threads, one batch ahead."""
        with ThreadPoolExecutor(2) as pool:
            ahead = collections.deque()
            for index in range(len(inputs) + self.detector.batch_size):
                if index < len(inputs):
                    one = inputs[index]
                    ahead.append(
                        (one, pool.submit(load_image, one.path, upright=self.scheme is None))
                    )
                if index >= self.detector.batch_size and ahead:
                    one, future = ahead.popleft()
                    try:
                        yield one, future.result()
                    except UserError as error:
                        self.failures.append(str(error))
                        advance()

    def _until_broken(self, reader: VideoReader) -> Iterator[tuple]:
        try:
            yield from reader
        except UserError as error:
            self.failures.append(str(error))

    def _drawn(self, pixels: np.ndarray, detected) -> np.ndarray:
        shown = detected.scores[:, 0] > self.least
        self.counts["drawn"] += int(shown.sum())
        labels = [self._labels[name] for name, kept in zip(detected.names, shown) if kept]
        return draw_boxes(
            pixels, detected.boxes[shown], labels, detected.scores[shown, 0], self._colors
        )

    def _keep(self, image: dict, detected) -> None:
        image = dict(id=image.pop("id", len(self.images) + 1), **image)
        self.images.append(image)
        self._found.append((image["id"], detected))

    # ---- output

    def write(self) -> None:
        """Write detections.json, COCO's results, and images.json, the meaning of their ids."""
        ids = self.detector.category_ids
        # No detection has a class whose id is None.
        category_ids = np.array([0 if number is None else number for number in ids], np.int64)
        columns = zip(*((image, *detected[:3]) for image, detected in self._found))
        images, classes, scores, boxes = columns if self._found else ((), (), (), ())
        images = np.repeat(np.array(images, np.int64), list(map(len, scores)))
        classes, scores = (
            np.concatenate([np.zeros((0, 1), dtype), *parts])[:, 0]
            for dtype, parts in ((np.int32, classes), (np.float32, scores))
        )
        ltrb = np.concatenate([np.zeros((0, 4), np.float32), *boxes]).astype(np.float64)
        xywh = np.concatenate([ltrb[:, :2], ltrb[:, 2:] - ltrb[:, :2]], axis=1)
        detections = Detections(
            images, np.round(xywh, 3), np.round(scores.astype(np.float64), 6), category_ids[classes]
        )
        path = os.path.join(self.folder, "detections.json")
        with write_errors(path, path):
            detections.to_json(path)
        content = dict(
            images=self.images,
            annotations=[],
            categories=[
                dict(id=number, name=name)
                for number, name in zip(ids, self.detector.class_names)
                if number is not None
            ],
        )
        path = os.path.join(self.folder, "images.json")
        with write_errors(path, path):
            replace_file(path, json.dumps(content).encode())

    def report(self, others: int) -> None:
        """Print the summary on standard output, failures and notes on standard error. others:
        number of files skipped."""
        counts, threshold = self.counts, self.detector.config.detection.score_threshold
        done = (
            [_number(counts["images"], "image")] if counts["images"] or not counts["videos"] else []
        )
        if counts["videos"]:
            done.append(
                f"{_number(counts['videos'], 'video')} of {_number(counts['frames'], 'frame')}"
            )
        classes = collections.Counter(
            name for _, detected in self._found for name in detected.names
        )
        total = sum(classes.values())
        by_class = [f"{on_a_line(name)} {count}" for name, count in classes.most_common(8)]
        by_class += ["..."] * (len(classes) > 8)
        print(
            f"{' and '.join(done)}: {_number(total, 'detection') if total else 'no detection'} "
            f"above {threshold:g}" + (f" ({', '.join(by_class)})" if total else "")
        )
        drawn = (
            ""
            if self.least is None
            else f", drawings of those above {max(self.least, threshold):g} ({counts['drawn']})"
        )
        print(f"in {on_a_line(self.folder)}: detections.json, images.json{drawn}")
        if self._legend and counts["drawn"]:
            print(self._legend)
        if self.scheme is not None and self.scheme.classes_left_out:
            print(self.scheme.classes_left_out)
        if self.scheme is not None and len(self.images) < self.scheme.count:
            print(
                f"{self.scheme.count - len(self.images)} of the {self.scheme.count} images of "
                f"{self.scheme.path} were not among the inputs; `score` counts their objects as "
                "missed"
            )
        if others:
            print(f"skipped: {_number(others, 'other file')} in the folders")
        if self.failures:
            print(f"failed or incomplete: {len(self.failures)} (exit status 1)")
        for line in self.notes + [f"failed: {line}" for line in self.failures]:
            print(f"{ends.program()} predict: {on_a_line(line)}", file=sys.stderr, flush=True)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
