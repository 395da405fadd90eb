"""Training jobs: good images are received and queued, workers make bundles from them."""
