"""Published systems that prune by the text, written from their papers, and what they are compared with."""
