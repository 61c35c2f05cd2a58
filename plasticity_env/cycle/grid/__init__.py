"""The grid: pruning levels x growth percentages x strategies, each cell beside a control arm."""
