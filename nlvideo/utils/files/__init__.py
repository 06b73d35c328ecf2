"""Files and folders: atomic writes, locks, kinds, YAML."""
