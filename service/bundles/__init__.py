"""Models in operation: bundles come and go, one decides, one watches."""
