"""Running the stream in one process or several."""
