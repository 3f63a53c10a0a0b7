"""One engine in a process of its own, for `t5kit bench`: `python -m t5kit.testing.engine_worker`.

A process for each, so that peak memory is one engine's, and no library's threads or allocator meet another's. Commands
come as JSON lines on standard input, and each is answered by one JSON line on standard output:

    {"open": "native:int8", "folder": …, "threads": 2, "max_new_tokens": 32, "scratch": …} -> {"load_s": …}
    {"prompts": [[…], …], "together": 64, "search": {"num_beams": 4}}
                           -> {"wall_s": …, "processor_s": …, "answers": [[…], …]}
    {"memory": true}       -> {"peak_bytes": …}

What goes wrong is {"error": sentence}. What libraries print goes to standard error.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t5kit.errors import T5kitError
from t5kit.testing.peers import Answer, EngineName, Ids, Search, import_engine, open_engine, prepare_engine


def peak_bytes() -> int:
    """Return the most memory this process has held, 0 where the system does not tell."""
    try:
        # Not ru_maxrss: Linux hands that on through fork and exec, so it can be the parent's.
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def timed(answer: Answer, prompts: Sequence[Ids], together: int, search: Search) -> dict[str, Any]:
    """Return the answers to all prompts, asked for so many at a time, and the seconds it took."""
    answers: list[Ids] = []
    wall, processor = time.perf_counter(), time.process_time()
    for first in range(0, len(prompts), together):
        answers += answer(prompts[first : first + together], search)
    return {
        "wall_s": time.perf_counter() - wall,
        "processor_s": time.process_time() - processor,
        "answers": answers,
    }


class EngineWorker:
    """Carries out commands, one after another."""

    def __init__(self) -> None:
        self._answer: Answer | None = None

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Return what a command gives, or {"error": one sentence}."""
        try:
            if "open" in command:
                name, folder = EngineName.parse(command["open"]), Path(command["folder"])
                scratch = Path(command["scratch"])
                prepare_engine(name, folder, scratch=scratch)
                import_engine(name)
                start = time.perf_counter()
                self._answer = open_engine(
                    name,
                    folder,
                    threads=command["threads"],
                    max_new_tokens=command["max_new_tokens"],
                    scratch=scratch,
                )
                return {"load_s": time.perf_counter() - start}
            if "memory" in command:
                return {"peak_bytes": peak_bytes()}
            assert self._answer is not None
            return timed(self._answer, command["prompts"], command["together"], Search(**command["search"]))
        except T5kitError as error:
            return {"error": str(error)}
        except Exception as error:  # a peer may raise anything; the comparison goes on without it
            return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}


def main() -> None:
    """Read commands until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = EngineWorker()
    for line in sys.stdin:
        replies.write(json.dumps(worker.obey(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
