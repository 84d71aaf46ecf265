"""The process of one stage of one run: `python -m zoo.bench.worker train|score FOLDER`.

Reads FOLDER/spec.json and always leaves word: FOLDER/trained.json or FOLDER/result.json, whatever went wrong inside it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from zoo.bench.plan import RunSpec
from zoo.bench.result import Result, Status, write_whole
from zoo.bench.run import score_stage, train_stage

SPEC_FILE, TRAINED_FILE = "spec.json", "trained.json"
INTERRUPTED = 130
_LOOK_SECONDS = 1.0


def main(stage: str, folder: Path) -> int:
    """Run one stage; 0 when it is done, otherwise a Result with the reason has been written."""
    spec = RunSpec.model_validate_json((folder / SPEC_FILE).read_text(encoding="utf-8"))
    status: Status
    try:
        if stage == "train":
            write_whole(folder / TRAINED_FILE, json.dumps(train_stage(spec, folder)))
        else:
            trained = {} if spec.floor else json.loads((folder / TRAINED_FILE).read_text(encoding="utf-8"))
            score_stage(spec, folder, trained).save(folder)
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError as error:
        status, reason, code = "out_of_memory", str(error) or "out of memory", 3
    except (ValueError, OSError) as error:  # the user's data or settings: the message says what to do
        status, reason, code = "failed", str(error), 2
    except Exception as error:  # a fault of ours or of a model: the log keeps the traceback, the bench goes on
        status, reason, code = "failed", f"{type(error).__name__}: {error}", 1
        traceback.print_exc()
    Result(run_id=spec.run_id, status=status, reason=reason, spec=spec).save(folder)
    return code


def _stop_when_left_alone() -> None:
    """Stop once the process that waits for this one is gone: its run may be begun again, by another bench or node."""
    bench = os.getppid()

    def watch() -> None:
        while os.getppid() == bench:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _stop_when_left_alone()
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
