"""What an image installs, as pip reads it: `python requirements.py train | detect | launch`.

Read from pyproject.toml while an image is built, so that no package is named twice. A change
there that leaves an image's list as it was leaves its installed layer as it was, too.
"""

import re
import sys
import tomllib
from pathlib import Path

# Of the library's own packages, those that its torch-free parts need: settings and storage.
WITHOUT_TORCH = ("boto3", "numpy", "prometheus-client", "pydantic", "urllib3")


def requirements(image: str, project: dict) -> list[str]:
    """Return the lines of an image's requirements file."""
    library, extras = project["dependencies"], project["optional-dependencies"]
    if image == "train":
        return library
    if image == "detect":
        return extras["detect"]
    named = [line for line in library if re.split("[<>=]", line)[0] in WITHOUT_TORCH]
    return named + extras["cluster"]


if __name__ == "__main__":
    found = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    print("\n".join(requirements(sys.argv[1], found["project"])))
