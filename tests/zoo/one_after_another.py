"""Command lines of `zoo.train` from a file, one after another in one process: starting it takes longer than they do.

With `--die-at N` in front of them, the process ends as if killed when it is about to log step N.
"""

import os
import shlex
import sys
from pathlib import Path

from zoo.train.__main__ import main
from zoo.train.log import RunLog


def die_at(step: int) -> None:
    write = RunLog.write

    def write_or_die(self: RunLog, at: int, *values: object) -> None:
        if at == step:
            os._exit(9)
        write(self, at, *values)  # pyright: ignore[reportArgumentType]

    RunLog.write = write_or_die  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    for line in Path(sys.argv[1]).read_text().splitlines():
        if line.startswith("--die-at "):
            die_at(int(line.split()[1]))
        else:
            sys.argv = ["zoo.train", *shlex.split(line)]
            main()
