"""Training jobs in the database: the queue, the claims of workers, and the images."""
