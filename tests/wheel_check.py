"""What a stranger does with our wheel, by the Python it was installed for: `make wheel-check`.

Run outside of pytest, in an environment that has nothing of the source folder and no test packages.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path

SHIPPED = (
    "py.typed",
    "models/nano_weights/config.json",
    "models/nano_weights/model.safetensors",
    "models/nano_weights/tokenizer.json",
    "report/page/assets/page.html.jinja",
    "report/page/assets/page.css",
    "report/page/assets/page.js",
)
TRAIN = ("train", "--recipe", "nano", "--output", "run", "trainer.steps=2", "synthetic.count=20")


def fission(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run the installed command; what it said.

    Raises:
        SystemExit: it ended with another exit code.
    """
    command = Path(sys.executable).with_name("fission")
    done = subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    sys.stdout.write(f"$ fission {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    if done.returncode != code:
        raise SystemExit(f"fission {arguments[0]} ended with {done.returncode}, expected {code}")
    return done.stdout + done.stderr


def require(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(message)


def main() -> None:
    package = resources.files("fission_grpo")
    require(".venv-wheel" in str(package), f"expected the installed package, got the one in {package}")
    for name in SHIPPED:
        require((package / name).is_file(), f"the wheel lacks {name}")
    require(any((package / "chat" / "templates").iterdir()), "the wheel lacks the chat templates")
    release = metadata.version("fission-grpo")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        require(release in fission(folder, "--version"), f"fission --version does not say {release}")
        fission(folder, "doctor", "nano")
        told = fission(folder, *TRAIN, code=2)  # its tools are a benchmark's, which is not here yet
        require("fission install-benchmarks bfcl" in told, "the missing benchmark has no remedy")
        fission(folder, "install-benchmarks", "bfcl")
        fission(folder, *TRAIN)
        require((folder / "run" / "metrics.jsonl").read_text().count("\n") == 2, "expected metrics of two steps")
        fission(folder, "report", "run")
        require("</html>" in (folder / "report.html").read_text(), "expected a whole page")
    sys.stdout.write(f"the wheel of fission-grpo {release} works\n")


if __name__ == "__main__":
    main()
