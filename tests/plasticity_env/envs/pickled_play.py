"""Run in another process: loads pickled environments, plays each on, and writes what they showed."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from tests.plasticity_env.envs.playing import go_on_and_start_anew

if __name__ == "__main__":
    for name in sys.argv[1:]:
        file = Path(name)
        env = pickle.loads(file.read_bytes())
        file.write_bytes(pickle.dumps(go_on_and_start_anew(env)))
