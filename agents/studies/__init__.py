"""Studies that still serve; each leaves once its question is answered (see README.md)."""
