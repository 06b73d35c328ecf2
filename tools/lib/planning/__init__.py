"""What a training run will need, before it is paid for: memory, time, network, reading and storage."""
