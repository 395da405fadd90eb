"""The service as a Ray Serve application: the whole service as ingress, graphs in replicas of their own.

Ray imports `service.ray_serve.application:build`, see `deploy/ray`. Nothing else in the service imports this package or
Ray, which the extra `ray` installs.
"""
