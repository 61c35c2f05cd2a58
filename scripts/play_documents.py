"""Every command line of the original documents on embedded models, in one table beside the control arms.

python scripts/play_documents.py
python scripts/play_documents.py --acts "adaptive; quick test" --page docs/lab/documents.md
"""

from __future__ import annotations

from plasticity_env.agents.commands.documents_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
