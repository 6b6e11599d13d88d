"""Copy installed packages, with what they need, from one Python's site-packages to another's of the
same version.

    python copy_packages.py TARGET PROJECT...

Quicker than installing: DALI alone is a download of 424 MB. The running interpreter's packages are
taken.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import distribution

from pip._vendor.packaging.requirements import Requirement


def with_dependencies(projects) -> list:
    """The projects and all that they require on this machine, each once."""
    found, waiting = {}, list(projects)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found[name] = distribution(name)
        for text in found[name].requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return list(found.values())


def main(target: str, projects) -> int:
    for package in with_dependencies(projects):
        for file in package.files or []:
            source = str(package.locate_file(file))
            if ".." in file.parts or not os.path.isfile(
                source
            ):  # commands in bin/, byte code since removed
                continue
            place = os.path.join(target, str(file))
            os.makedirs(os.path.dirname(place), exist_ok=True)
            shutil.copy2(source, place, follow_symlinks=False)
        print(package.metadata["Name"], package.version)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
