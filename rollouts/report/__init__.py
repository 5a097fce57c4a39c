"""An attempt as a page: what the cluster keeps of it, as values, and drawings of them. Pure."""
