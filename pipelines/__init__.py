"""Real time: the Bytewax dataflow, its sources, and the sharded state it keeps."""
