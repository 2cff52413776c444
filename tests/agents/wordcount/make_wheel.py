"""Build dist/corpusstats-1.0-py3-none-any.whl, without any build tool: a wheel is a zip file with three more files."""

import zipfile
from pathlib import Path

FILES = {
    "corpusstats.py": "def mean(values):\n    return sum(values) / len(values)\n",
    "corpusstats-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: corpusstats\nVersion: 1.0\n",
    "corpusstats-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: make_wheel\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
FILES["corpusstats-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in FILES) + "corpusstats-1.0.dist-info/RECORD,,\n"

Path("dist").mkdir(exist_ok=True)
with zipfile.ZipFile("dist/corpusstats-1.0-py3-none-any.whl", "w") as wheel:
    for name, content in FILES.items():
        wheel.writestr(name, content)
