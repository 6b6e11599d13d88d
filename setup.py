"""pyproject.toml has the rest: this puts config_*.sh, which `ssd plan` reads, into the package."""

import glob
import os

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):
            folder = os.path.join(self.build_lib, "ssd", "configs")
            self.mkpath(folder)
            for path in sorted(glob.glob("config_*.sh")):
                self.copy_file(path, folder)


setup(cmdclass={"build_py": BuildPy})
