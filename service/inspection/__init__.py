"""The decision core: decode images, run the graph, score and decide. No HTTP, no SQL, no torch."""
