"""One setting: a dataclass field with its help text and limits; and the size of an image."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

SMALLEST, LARGEST = (
    32,
    4096,
)  # sides of an image [pixels]; smaller ones have fewer than three feature maps


class ImageSize(NamedTuple):
    """Size of the network's input [pixels]."""

    height: int
    width: int

    @property
    def plain(self):
        """As in a recipe: one number for a square, else 'HEIGHTxWIDTH'."""
        return self.height if self.height == self.width else f"{self.height}x{self.width}"

    def __str__(self):
        return str(self.plain)


def setting(
    help: str,
    *,
    choices=None,
    minimum=None,
    above=None,
    maximum=None,
    flag=True,
    only=None,
    before=None,
    **default,
):
    """A field with its help text (with the unit), its allowed values, and whether it has a flag.

    only: ("section.name" of the setting that chooses a kind, the kinds that use this setting). The
    field is Optional, and None with every other kind. before: what runs did before the setting
    existed; it completes older saved recipes and checkpoints.
    """
    return dataclasses.field(
        metadata=dict(
            help=help,
            choices=choices,
            minimum=minimum,
            above=above,
            maximum=maximum,
            flag=flag,
            only=only,
            before=before,
        ),
        **default,
    )
