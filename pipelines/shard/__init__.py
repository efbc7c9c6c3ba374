"""What the stream remembers of a shard, and how a batch of readings moves it on."""
