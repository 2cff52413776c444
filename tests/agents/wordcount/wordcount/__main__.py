"""``python3 -m wordcount [--copies N] FILE``."""

import argparse
from pathlib import Path

from wordcount import corpus, count

parser = argparse.ArgumentParser()
parser.add_argument("--copies", type=int, default=0)
parser.add_argument("file", type=Path)
arguments = parser.parse_args()
text = arguments.file.read_text()
print(sum(map(len, corpus(text, arguments.copies))) if arguments.copies else count(text))
