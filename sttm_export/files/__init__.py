"""Files that appear whole or not at all, names that stay inside a directory, and one at a time: the ground floor."""
