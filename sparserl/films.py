"""Films of what policies do: pictures with captions, side by side, written into one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

FORMATS = {".mp4": "imageio_ffmpeg", ".gif": "imageio"}
"""The endings that a film may have, and the package that writes each."""

LINE, MARGIN, GAP = 18, 4, 8
"""Pixels: the height of a line of a caption, what is left free beside it, and the distance between two pictures. They are even,
as the codec of mp4 needs sides to be."""

Picture = UInt8[np.ndarray, "_height _width 3"]
Show = Callable[[Picture], None]


def captioned(picture: Picture, lines: Sequence[str]) -> Picture:
    """The picture with lines of text above it."""
    from PIL import Image, ImageDraw, ImageFont  # of an extra

    caption = Image.new("RGB", (picture.shape[1], LINE * len(lines) + MARGIN))
    draw, font = ImageDraw.Draw(caption), ImageFont.load_default(LINE - MARGIN)
    for number, line in enumerate(lines):
        draw.text((MARGIN, LINE * number), line, fill="white", font=font)
    return np.concatenate([np.asarray(caption), picture])


def side_by_side(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one height in a row, with a gap between each two."""
    gap = np.zeros((pictures[0].shape[0], GAP, 3), np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=1)


@contextmanager
def film(path: Path | None, rate: float | int) -> Iterator[Show]:
    """What takes the pictures of a film, ``rate`` of them a second, and drops them where there is no path."""
    if path is None:
        yield lambda _: None
        return
    import imageio.v2 as imageio  # of an extra

    # even sides are all that the codec of mp4 asks for
    how: dict[str, Any] = (
        {"duration": 1000 / rate, "loop": 0} if path.suffix == ".gif" else {"fps": rate, "macro_block_size": 2}
    )
    with closing(imageio.get_writer(path, **how)) as writer:
        yield writer.append_data
