"""A small Gateway API data plane for the lab: Envoy, configured live from the API server."""
