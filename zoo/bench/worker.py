"""The process of one stage of one run: `python -m zoo.bench.worker STAGE FOLDER`.

Stages are `train`, those of `zoo.bench.cost`, and `score`. Each reads FOLDER/spec.json and always leaves word, whatever
went wrong inside it: FOLDER/trained.json, FOLDER/STAGE.json of a cost, or FOLDER/result.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

import psutil

from zoo.bench.cost import STAGES, stage_file
from zoo.bench.plan import RunSpec
from zoo.bench.result import Result, Status, write_whole
from zoo.bench.run import score_stage, train_stage

SPEC_FILE, TRAINED_FILE = "spec.json", "trained.json"
INTERRUPTED = 130
_LOOK_SECONDS = 1.0


def main(stage: str, folder: Path) -> int:
    """Run one stage; 0 when it is done, otherwise the reason has been written."""
    spec = RunSpec.model_validate_json((folder / SPEC_FILE).read_text(encoding="utf-8"))
    status: Status
    try:
        if stage == "train":
            trained = train_stage(spec, folder)
            trained["wall_seconds"] = max(_age(), trained["report"]["seconds"])  # of a resumed run, all of its training
            write_whole(folder / TRAINED_FILE, json.dumps(trained))
        elif stage in STAGES:
            from zoo.bench.measure import measure  # loads what scoring a floor does without

            write_whole(folder / stage_file(stage), json.dumps({"figures": measure(stage, spec)}))
        else:
            trained = {} if spec.floor else json.loads((folder / TRAINED_FILE).read_text(encoding="utf-8"))
            result = score_stage(spec, folder, trained)
            result.cost["wall_seconds"] = round(trained.get("wall_seconds", 0.0) + _age(), 3)
            result.save(folder)
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
    if stage in STAGES:  # the run goes on without its figures
        write_whole(folder / stage_file(stage), json.dumps({"reason": reason}))
    else:
        Result(run_id=spec.run_id, status=status, reason=reason, spec=spec).save(folder)
    return code


def _age() -> float:
    """Seconds since this process was started."""
    return time.time() - psutil.Process().create_time()


def _stop_when_left_alone() -> None:
    """Stop once the process that waits for this one is gone: its run may be begun again, by another bench or node."""
    bench = os.getppid()

    def watch() -> None:
        while os.getppid() == bench:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*the outermost layer is repeated")  # the bench has said it, once
    _stop_when_left_alone()
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
