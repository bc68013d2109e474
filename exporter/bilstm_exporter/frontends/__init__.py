"""Models as they come: reading, answering and tracing them."""
