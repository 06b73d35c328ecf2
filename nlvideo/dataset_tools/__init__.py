"""What only tools need: transcoding, indexes, shards, official annotations."""
