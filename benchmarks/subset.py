"""Makes a data set of the first N images of another: `subset.py ANNOTATIONS IMAGES N FOLDER`.

The same images serve for training and validation, to see whether a detector can overfit them.
Images are linked, not copied.
"""

from __future__ import annotations

import json
import os
import sys


def main(annotations: str, images: str, count: int, folder: str) -> None:
    with open(annotations, encoding="utf-8") as file:
        content = json.load(file)
    boxed = {row["image_id"] for row in content["annotations"]}
    chosen = [image for image in content["images"] if image["id"] in boxed][:count]
    ids = {image["id"] for image in chosen}
    content = dict(
        images=chosen,
        categories=content["categories"],
        annotations=[row for row in content["annotations"] if row["image_id"] in ids],
    )
    os.makedirs(os.path.join(folder, "annotations"))
    for split in ("train2017", "val2017"):
        os.makedirs(os.path.join(folder, split))
        for image in chosen:
            os.symlink(
                os.path.abspath(os.path.join(images, image["file_name"])),
                os.path.join(folder, split, image["file_name"]),
            )
        with open(
            os.path.join(folder, "annotations", f"bbox_only_instances_{split}.json"), "w"
        ) as file:
            json.dump(content, file)
    print(f"{folder}: {len(chosen)} images, {len(content['annotations'])} boxes")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
