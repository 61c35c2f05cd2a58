"""What every room uses and none owns: errors, files, progress, command lines, trackers."""
