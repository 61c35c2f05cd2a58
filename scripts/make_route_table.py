"""Make the route table that comes with the package.

python scripts/make_route_table.py --measured 4 --output_dir /tmp/table
"""

from __future__ import annotations

from plasticity_env.agents.routing.small_table import SmallTable, make_small_table
from plasticity_env.common import cli


def main(config: SmallTable) -> None:
    """Fit structures on four kinds of text, and measure what each of them costs other texts of these kinds."""
    make_small_table(config)


if __name__ == "__main__":
    cli.run(SmallTable, main)
