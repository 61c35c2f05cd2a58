"""The page of a run of the cycle: its charts, sections and style."""
