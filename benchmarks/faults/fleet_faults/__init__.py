"""Replicas behind HAProxy, on PostgreSQL and S3, with many products, disturbed under load; see `__main__`."""
