"""Pictures and pages: charts, tensors, panels of heads, HTML."""
