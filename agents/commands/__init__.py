"""The sub-commands of ``plasticity``, one file each: its arguments, and what it does with them."""
