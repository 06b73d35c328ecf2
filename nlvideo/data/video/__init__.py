"""Videos: files, folders of frames, arrays and windows, all read in one way."""
