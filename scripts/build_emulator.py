"""Build the emulator of Super Mario Bros again, optimised as a whole and by a profile of the game.

In what pip builds, no function can be inlined into one of another file. `make install-mario` runs
this script after pip. It needs GCC; without it, or where the new emulator does not play the same game, that of pip stays.

    python scripts/build_emulator.py
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLAGS = "-flto=auto -fno-semantic-interposition"
FRAMES, FRAMES_HELD, FRAMES_DRAWN = 6000, 16, 1500
BUTTONS = 0, 1, 128, 129, 130, 131
"""Nothing, jump, and right with and without A and B."""


def play() -> str:
    """Hold random buttons in 7-1 and in the drawn one. Returns a digest of the console's memory and pictures on the way."""
    from sparserl.environments.mario_console import Console

    chance, seen = random.Random(0), hashlib.sha256()
    for draw, frames in ((False, FRAMES), (True, FRAMES_DRAWN)):
        console = Console(7, 1, "vanilla", draw)
        for frame in range(frames):
            if frame % FRAMES_HELD == 0:
                buttons = chance.choice(BUTTONS)
                seen.update(bytes(console.memory) + (console.grayscale().tobytes() if draw else b""))
            console.frame(buttons)
            if console.dead or console.flag:
                console.reset()
        console.close()
    return seen.hexdigest()


def played_by(package: Path | None) -> tuple[str, float]:
    """What ``play`` returns, and its seconds, with the emulator in the folder ``package``; with the installed one without."""
    found = {"PYTHONPATH": str(package)} if package else {}
    command = [sys.executable, __file__, "--play"]
    printed = subprocess.run(command, env=os.environ | found, check=True, capture_output=True, text=True).stdout
    digest, seconds = printed.split()
    return digest, float(seconds)


def pip(*arguments: str, flags: str = "") -> None:
    """Run pip, silently. Raises ``CalledProcessError`` where it fails."""
    flags = f"{FLAGS} {flags}"
    environment = os.environ | {"CXX": "g++", "CXXFLAGS": flags, "LDFLAGS": flags}
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir"]
    subprocess.run([*command, "--ignore-requires-python"], env=environment, check=True, capture_output=True)


def build(root: Path, flags: str, *where: str) -> None:
    """Have pip build and install. Profiles hold for one path of the sources and of the object files only."""
    (archive,) = root.glob("nes_py-*.tar.gz")
    source, objects = root / "source", root / "objects"
    if not source.exists():
        shutil.unpack_archive(archive, source)
    pip(
        "install",
        str(source / archive.name.removesuffix(".tar.gz")),
        f"--config-settings=build-dir={objects}",
        *where,
        flags=flags,
    )


def main() -> None:
    """Build, compare, install."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        profiled, fast, profiles = root / "profiled", root / "fast", root / "profiles"
        by_profile = f"-fprofile-use={profiles} -Wno-missing-profile"
        try:
            pip("download", "--no-binary", "nes-py", "--dest", folder, f"nes-py=={importlib.metadata.version('nes-py')}")
            build(root, f"-fprofile-generate={profiles} -fprofile-update=single", "--target", str(profiled))
            played_by(profiled)
            build(root, by_profile, "--target", str(fast))
            (digest, seconds), (digest_before, seconds_before) = played_by(fast), played_by(None)
            if digest != digest_before:
                sys.exit("the emulator stays as pip built it: the faster one does not play the same game")
            build(root, by_profile, "--force-reinstall")
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"the emulator stays as pip built it, which is slower: {error}")
    print(f"the emulator is built for the game: {seconds_before / seconds:.1f} times as fast as before")


if __name__ == "__main__":
    if sys.argv[1:] == ["--play"]:
        start = time.process_time()
        digest = play()
        print(digest, time.process_time() - start)
    else:
        main()
