"""Objects of Kubernetes and of the Gateway API as values: one reader for controller, picker and commands. Pure."""
