"""Lists of videos and shards as compact records."""
