"""The worker: gets training jobs from a service, runs the training pipeline, and uploads the bundles."""
