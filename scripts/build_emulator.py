"""Build the emulator of Super Mario Bros again, optimised as a whole and by a profile of the game.

In what pip builds, no function can be inlined into one of another file. `make install-mario` runs this script after pip, once.
It needs GCC; without it, or where the new emulator does not play the same game or is not faster, that of pip stays.

    python scripts/build_emulator.py
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FLAGS = "-flto=auto -fno-semantic-interposition"
FRAMES, FRAMES_HELD, FRAMES_DRAWN = 6000, 16, 1500
BUTTONS = 0, 1, 128, 129, 130, 131
"""Nothing, jump, and right with and without A and B."""


def play() -> dict[str, Any]:
    """Hold random buttons in 7-1 and in the drawn one.

    Returns a digest of the console's memory and pictures on the way, the seconds, and the file of the emulator.
    """
    import nes_py

    from sparserl.environments.mario_console import Console

    chance, seen, start = random.Random(0), hashlib.sha256(), time.process_time()
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
    return {"digest": seen.hexdigest(), "seconds": time.process_time() - start, "file": nes_py.__file__}


def played_by(package: Path | None) -> dict[str, Any]:
    """What ``play`` returns with the emulator in the folder ``package``; without one, with the installed emulator."""
    folders = [*([str(package)] if package else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    printed = run([sys.executable, __file__, "--play"], environment)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    if package and package not in Path(found["file"]).parents:
        raise RuntimeError(f"the emulator that played is {found['file']}")
    return found


def run(command: list[str], environment: dict[str, str]) -> str:
    """What a command prints. Raises RuntimeError, with the last line that it wrote, where it fails."""
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or f"{command} fails").splitlines()[-1])
    return done.stdout


def pip(*arguments: str, flags: str = "") -> None:
    """Run pip, without dependencies."""
    flags = f"{FLAGS} {flags}"
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([*command, "--ignore-requires-python"], {**os.environ, "CXX": "g++", "CXXFLAGS": flags, "LDFLAGS": flags})


def build(root: Path, name: str, flags: str) -> Path:
    """A wheel, installed into the folder ``name``. Profiles hold for one path of the sources and of the object files only."""
    (archive,) = root.glob("nes_py-*.tar.gz")
    source, objects = root / "source", root / "objects"
    if not source.exists():
        shutil.unpack_archive(archive, source)
    shutil.rmtree(objects, ignore_errors=True)  # else it would be built with the flags of the time before
    into = root / f"{name}-wheel"
    its = str(source / archive.name.removesuffix(".tar.gz"))
    pip("wheel", its, f"--config-settings=build-dir={objects}", "--no-cache-dir", "--wheel-dir", str(into), flags=flags)
    (wheel,) = into.glob("*.whl")
    pip("install", str(wheel), "--target", str(root / name))
    return wheel


def main() -> None:
    """Build, compare, install."""
    try:
        installed = importlib.metadata.distribution("nes-py")
    except importlib.metadata.PackageNotFoundError:
        sys.exit("the emulator is not installed: make install-mario")
    if installed.read_text("direct_url.json"):  # which pip writes for a wheel that is a file, as this script installs
        print("the emulator was built for the game before")
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        profiles = root / "profiles"
        try:
            pip("download", "--no-binary", "nes-py", "--no-cache-dir", "--dest", folder, f"nes-py=={installed.version}")
            build(root, "profiled", f"-fprofile-generate={profiles} -fprofile-update=single")
            played_by(root / "profiled")
            wheel = build(root, "fast", f"-fprofile-use={profiles} -Wno-missing-profile")
            found, before = played_by(root / "fast"), played_by(None)
            if found["digest"] != before["digest"]:
                raise RuntimeError("the faster one does not play the same game")
            if found["seconds"] >= before["seconds"]:
                raise RuntimeError("the new one is not faster")
            pip("install", str(wheel), "--force-reinstall")
        except (OSError, RuntimeError, ValueError) as error:
            sys.exit(f"the emulator stays as pip built it: {error}")
    print(f"the emulator is built for the game: {before['seconds'] / found['seconds']:.1f} times as fast as before")


if __name__ == "__main__":
    if sys.argv[1:] == ["--play"]:
        print(json.dumps(play()))
    else:
        main()
